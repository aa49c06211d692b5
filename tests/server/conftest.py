"""A service on a model without networks: what it says depends on text and seed, and takes as long as it is told."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

import cosyvoice
from cosyvoice.config.model import DiTConfig, FlowConfig, LLMConfig, ModelConfig, Qwen2Config, SamplingConfig
from cosyvoice.engine.models import CosyVoice3Model
from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.stages import FlowInput, LLMInput, MelChunk, Stages, TokenChunk
from cosyvoice.errors import TextError
from cosyvoice.server.app import create_app
from cosyvoice.server.service import SpeechService
from cosyvoice.server.settings import Settings, load_settings
from cosyvoice.voice.store import VoiceStore
from cosyvoice.voice.voice import Voice

VOCABULARY = 1000
TOKENS_PER_WORD = 9
HOP = 480


@dataclass
class FakeLLM:
    """Nine tokens a word; `delay` seconds a step. Counts what is held."""

    delay: float = 0.0
    held: int = 0
    steps: int = 0
    gate: threading.Event | None = None
    """Where it is given, no step is taken before it is set."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def init_state(self, inputs: LLMInput) -> list[int]:
        with self._lock:
            self.held += 1
        start = sum(inputs.text) % 500
        return [(start + 7 * i) % VOCABULARY for i in range(TOKENS_PER_WORD * len(inputs.text))] + [VOCABULARY]

    def step(self, token: int | None, state: list[int]) -> tuple[np.ndarray, list[int]]:
        if self.gate is not None:
            self.gate.wait(10)
        time.sleep(self.delay)
        self.steps += 1
        scores = np.full(VOCABULARY + 4, -np.inf, np.float32)
        scores[state[0]] = 0.0
        return scores, state[1:] or [VOCABULARY]

    def release(self, state: list[int]) -> None:
        with self._lock:
            self.held -= 1


class FakeFlow:
    """Two frames a token, of its value and of the voice."""

    def init_state(self, inputs: FlowInput) -> tuple[list[int], int, float]:
        return [], 0, float(inputs.embedding[0]) if hasattr(inputs, "embedding") else 0.0

    def step(self, chunk: TokenChunk, state: tuple[list[int], int, float]) -> tuple[np.ndarray, Any]:
        tokens = state[0] + list(chunk.tokens)
        known = tokens if chunk.finalize else tokens[:-3]
        frames = np.repeat(np.array(known, np.float32) / VOCABULARY, 2)[state[1] :, None].repeat(80, axis=1)
        return frames, (tokens, state[1] + len(frames), state[2])


class FakeVocoder:
    """A tone for every frame, whose loudness is the frame's value."""

    def init_state(self) -> int:
        return 0

    def step(self, chunk: MelChunk, state: int) -> tuple[np.ndarray, int]:
        loudness = (0.1 + 0.8 * chunk.mel[:, 0]).repeat(HOP).astype(np.float32)
        time_axis = np.arange(state, state + len(loudness)) / 24000
        return loudness * np.sin(2 * np.pi * 220 * time_axis).astype(np.float32), state + len(loudness)


class WordFrontend:
    """A piece a line, a text token and four phones a word; `unspeakable` cannot be spoken."""

    def split(self, text: str) -> list[str]:
        if not any(letter.isalnum() for letter in text) or "unspeakable" in text:
            raise TextError("there is nothing to speak in the text; write words")
        return [line for line in text.split("\n") if line.strip()]

    def encode(self, text: str) -> list[int]:
        return [sum(map(ord, word)) % 200 for word in text.split()]

    def encode_prompt(self, text: str) -> list[int]:
        return [100 + i for i in range(len(text.split()))]

    def count_phones(self, text: str) -> int:
        return 4 * len(text.split())


def fake_voice(name: str, gender: str = "female", index: int = 0) -> Voice:
    tokens = 50
    return Voice(
        name=name,
        speech_token=np.arange(tokens, dtype=np.int32),
        mel=np.zeros((2 * tokens, 80), np.float16),
        speaker_embedding=np.full(192, index, np.float32),
        gender=gender,
        model="fake",
    )


def fake_config() -> ModelConfig:
    llm = LLMConfig(
        qwen=Qwen2Config(vocab_size=200),
        speech_token_size=VOCABULARY,
        speech_extra_tokens=4,
        sampling=SamplingConfig(tau_r=2.0),
        min_token_text_ratio=0.0,
        max_token_text_ratio=1000.0,
        bistream=False,
    )
    flow = FlowConfig(vocab_size=VOCABULARY, dit=DiTConfig(static_chunk_size=50))
    return ModelConfig(name="fake", end_of_prompt_id=None, llm=llm, flow=flow)


@dataclass
class Fake:
    """A service, its parts, and what to look at."""

    service: SpeechService
    llm: FakeLLM
    settings: Settings


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    folder = tmp_path / "presets"
    folder.mkdir()
    for index, (name, gender) in enumerate((("anna", "female"), ("bert", "male"))):
        fake_voice(name, gender, index).save(folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def make_service(tmp_path: Path, presets: Path) -> Iterator[Callable[..., Fake]]:
    """Builds a service; keywords are settings, `delay` and `gate` are of the language model."""
    made: list[Fake] = []

    def make(delay: float = 0.0, gate: threading.Event | None = None, **flags: Any) -> Fake:
        llm = FakeLLM(delay, gate=gate)
        stages = Stages(
            text=WordFrontend(),
            llm=llm,
            flow=FakeFlow(),
            vocoder=FakeVocoder(),
            speech_tokenizer=lambda samples: np.arange(len(samples) // 640, dtype=np.int32),
            speaker_encoder=lambda samples: np.ones(192, np.float32),
        )
        tts = TTS(CosyVoice3Model(fake_config(), stages), VoiceStore(tmp_path / "own", presets))
        settings = load_settings(None, {"voices_directory": tmp_path / "own", **flags})
        fake = Fake(SpeechService(tts, settings), llm, settings)
        made.append(fake)
        return fake

    yield make
    for fake in made:
        if fake.llm.gate is not None:
            fake.llm.gate.set()
        fake.service._workers.shutdown(wait=True, cancel_futures=True)


@pytest.fixture
def make_client() -> Callable[[Fake], httpx.AsyncClient]:
    """A client that calls the application directly."""

    def make(fake: Fake, **options: Any) -> httpx.AsyncClient:
        app = create_app(fake.settings, fake.service)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://server", **options)

    return make


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(make_service: Callable[..., Fake], make_client: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service with the default settings."""
    async with make_client(make_service()) as client:
        yield client


@pytest.fixture(scope="session")
def recording(make_speech: Callable[..., np.ndarray]) -> bytes:
    """Three seconds that pass for speech, as WAV."""
    return wav_bytes(make_speech(3.0))


def wav_bytes(samples: np.ndarray, rate: int = 24000, **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **{"format": "WAV", "subtype": "PCM_16", **options})
    return buffer.getvalue()


@pytest.fixture(scope="session")
def mini_tts() -> TTS:
    """The model of the package."""
    return cosyvoice.load(threads=1)


@pytest.fixture
def mini_fake(mini_tts: TTS, tmp_path: Path) -> Iterator[Fake]:
    """A service that really speaks."""
    settings = load_settings(None, {"voices_directory": tmp_path / "own"})
    fake = Fake(SpeechService(mini_tts, settings), FakeLLM(), settings)
    yield fake
    fake.service._workers.shutdown(wait=True, cancel_futures=True)
