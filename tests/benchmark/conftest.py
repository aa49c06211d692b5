"""The tiny random model, and stages whose every step takes a known time on a clock of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import cosyvoice
from cosyvoice.benchmark.harness import Spread
from cosyvoice.benchmark.machine import Machine
from cosyvoice.benchmark.random_model import geometry, write_random_model
from cosyvoice.benchmark.results import Concurrency, Measurement, Memory, Results, Settings, Stream
from cosyvoice.benchmark.workload import Workload
from cosyvoice.engine.models import CosyVoice3Model
from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.stages import FlowInput, LLMInput, MelChunk, Stages, TokenChunk
from cosyvoice.voice.store import VoiceStore

READ_SECONDS, STEP_SECONDS, FLOW_SECONDS, VOCODER_SECONDS = 2.0, 0.5, 0.25, 0.125
"""The flow and the vocoder take so long for each token and each frame."""


@dataclass
class FakeClock:
    """Time goes on only when somebody works."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class _LLM:
    def __init__(self, clock: FakeClock, outputs: int) -> None:
        self._clock, self._outputs = clock, outputs
        self.released = 0

    def init_state(self, inputs: LLMInput) -> list[int]:
        return []

    def step(self, token: int | None, state: list[int]) -> tuple[np.ndarray, list[int]]:
        self._clock.now += READ_SECONDS if token is None else STEP_SECONDS
        return np.zeros(self._outputs, np.float32), [*state, -1 if token is None else token]

    def release(self, state: list[int]) -> None:
        self.released += 1


class _Flow:
    def __init__(self, clock: FakeClock, lookahead: int) -> None:
        self._clock, self._lookahead = clock, lookahead
        self.calls: list[TokenChunk] = []

    def init_state(self, inputs: FlowInput) -> tuple[int, int]:
        return 0, 0

    def step(self, chunk: TokenChunk, state: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
        self.calls.append(chunk)
        self._clock.now += FLOW_SECONDS * len(chunk.tokens)
        tokens = state[0] + len(chunk.tokens)
        frames = 2 * (tokens - (0 if chunk.finalize else self._lookahead))
        return np.zeros((frames - state[1], 80), np.float32), (tokens, frames)


class _Vocoder:
    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def init_state(self) -> None:
        return None

    def step(self, chunk: MelChunk, state: None) -> tuple[np.ndarray, None]:
        self._clock.now += VOCODER_SECONDS * len(chunk.mel)
        return np.full(480 * len(chunk.mel), 0.5, np.float32), None


@dataclass
class Fake:
    """A model on fake stages, and their clock."""

    tts: TTS
    clock: FakeClock
    llm: _LLM
    flow: _Flow


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    config, clock = geometry("tiny"), FakeClock()
    llm = _LLM(clock, config.llm.speech_token_size + config.llm.speech_extra_tokens)
    flow = _Flow(clock, config.flow.pre_lookahead_len)
    stages = Stages(text=None, llm=llm, flow=flow, vocoder=_Vocoder(clock), speech_tokenizer=None, speaker_encoder=None)  # type: ignore[arg-type]
    return Fake(TTS(CosyVoice3Model(config, stages), VoiceStore(tmp_path)), clock, llm, flow)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random model as a bundle."""
    return write_random_model("tiny", tmp_path_factory.mktemp("bench") / "random-tiny")


@pytest.fixture(scope="session")
def speaking_model(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a voice."""
    directory = tmp_path_factory.mktemp("bench") / "speaking"
    directory.mkdir()
    for file in random_model.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    voice = Workload(geometry("tiny")).voice
    (directory / "voices").mkdir()
    replace(voice, transcript="Hello there.").save(directory / "voices" / "random.safetensors")
    return directory


@pytest.fixture(scope="session")
def native(random_model: Path) -> TTS:
    return cosyvoice.load(random_model, backend="native", threads=1)


@pytest.fixture
def results() -> Results:
    """Of a run in which the reference took 4 s and 6 s, and int8 took 2 s and 2 s."""
    seconds = {"reference": [4.0, 6.0], "int8": [2.0, 2.0]}
    settings = Settings(
        model="some|model", precisions=["int8"], baseline="reference", stages=["llm", "flow"], threads=2, rounds=2,
        seconds=10.0, prompt_seconds=3.5, stream_seconds=5.0, requests=2,
    )  # fmt: skip
    machine = Machine(
        cpu="Some CPU", cores=2, memory_gb=4, instruction_sets=["avx2"], system="Linux", versions={"numpy": "2"}
    )
    one = Spread(min=1, median=2, max=3)
    return Results(
        machine=machine,
        load_average=[0.1, None],
        settings=settings,
        measurements={name: Measurement.of(name, seconds, "reference", 10.0) for name in ("llm_decode", "flow")},
        streams={"int8": Stream.of([[0.5, 0.2, 0.2, 0.3], [0.4, 0.1, 0.3, 0.2]])},
        memory={
            "reference": Memory(loaded=200, peak=300, chunks=[], stream_peak=None),
            "int8": Memory(loaded=50, peak=90, chunks=[80.0, 81.0, 83.0], stream_peak=95),
        },
        concurrency={"int8": Concurrency(one_at_a_time=one, together=one, gain=one, difference=1e-6)},
        quality={"int8": {"llm_kl": 0.0123, "flow_mel_error": 0.002, "vocoder_snr": 55.0}},
        notes=["the machine was busy"],
    )
