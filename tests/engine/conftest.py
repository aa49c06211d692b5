"""Stages without networks: what they give shows what they were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from cosyvoice.config.model import DiTConfig, FlowConfig, LLMConfig, ModelConfig, Qwen2Config, SamplingConfig
from cosyvoice.engine.models import CosyVoice3Model
from cosyvoice.engine.stages import FlowInput, LLMInput, MelChunk, Stages, TokenChunk

VOCABULARY = 1000
HOP = 480
HELD_FRAMES = 8
LOOKAHEAD = 3


class ScriptedLLM:
    """Says the next of `scripts`, whatever it is asked, and then stops; the last one again and again."""

    def __init__(self, scripts: Sequence[Sequence[int]]) -> None:
        self.scripts = [list(script) for script in scripts]
        self.inputs: list[LLMInput] = []
        self.released = 0
        self.steps = 0

    def init_state(self, inputs: LLMInput) -> list[int]:
        self.inputs.append(inputs)
        script = self.scripts[min(len(self.inputs), len(self.scripts)) - 1]
        return [*script, VOCABULARY]

    def step(self, token: int | None, state: list[int]) -> tuple[np.ndarray, list[int]]:
        self.steps += 1
        scores = np.full(VOCABULARY + 4, -np.inf, np.float32)
        scores[state[0]] = 0.0
        return scores, state[1:] or [VOCABULARY]

    def release(self, state: list[int]) -> None:
        self.released += 1


class CountingFlow:
    """Two frames a token, whose value is the token; keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[TokenChunk] = []

    def init_state(self, inputs: FlowInput) -> tuple[list[int], int]:
        return [], 0

    def step(self, chunk: TokenChunk, state: tuple[list[int], int]) -> tuple[np.ndarray, tuple[list[int], int]]:
        self.calls.append(chunk)
        tokens = state[0] + list(chunk.tokens)
        known = tokens if chunk.finalize else tokens[:-LOOKAHEAD]
        frames = np.repeat(np.array(known, np.float32) / VOCABULARY, 2)[state[1] :, None].repeat(80, axis=1)
        return frames, (tokens, state[1] + len(frames))


class CountingVocoder:
    """480 samples a frame, of its value; holds back 8 frames of an utterance that goes on."""

    def __init__(self) -> None:
        self.calls: list[MelChunk] = []

    def init_state(self) -> tuple[np.ndarray, int]:
        return np.zeros((0, 80), np.float32), 0

    def step(self, chunk: MelChunk, state: tuple[np.ndarray, int]) -> tuple[np.ndarray, tuple[np.ndarray, int]]:
        self.calls.append(chunk)
        mel = np.concatenate([state[0], chunk.mel])
        count = len(mel) if chunk.finalize else max(len(mel) - HELD_FRAMES, 0)
        samples = mel[:count, 0].repeat(HOP)[state[1] :]
        return samples, (mel, state[1] + len(samples))


@dataclass
class WordFrontend:
    """A piece a line, a text token and four phones a word."""

    encoded: list[str] = field(default_factory=list)

    def split(self, text: str) -> list[str]:
        return text.split("\n")

    def encode(self, text: str) -> list[int]:
        self.encoded.append(text)
        return list(range(len(text.split())))

    def encode_prompt(self, text: str) -> list[int]:
        return [100 + i for i in range(len(text.split()))]

    def count_phones(self, text: str) -> int:
        return 4 * len(text.split())


@dataclass
class FakeModel:
    """A model on fake stages, and the stages themselves."""

    model: CosyVoice3Model
    llm: ScriptedLLM
    flow: CountingFlow
    vocoder: CountingVocoder


def fake_config(**changes: object) -> ModelConfig:
    llm = LLMConfig(
        qwen=Qwen2Config(vocab_size=200),
        speech_token_size=VOCABULARY,
        speech_extra_tokens=4,
        sampling=SamplingConfig(tau_r=2.0),
        min_token_text_ratio=0.0,
        max_token_text_ratio=1000.0,
    )
    flow = FlowConfig(vocab_size=VOCABULARY, dit=DiTConfig(static_chunk_size=50))
    defaults = {"name": "fake", "end_of_prompt_id": None, "llm": llm, "flow": flow}
    return ModelConfig(**{**defaults, **changes})


@pytest.fixture(params=[False, True], ids=["in-turn", "concurrent"])
def make_fake(request):  # type: ignore[no-untyped-def]
    """Builds a `FakeModel` that says the scripts given, attempt by attempt."""

    def make(*scripts: Sequence[int], **changes: object) -> FakeModel:
        llm, flow, vocoder = ScriptedLLM(scripts), CountingFlow(), CountingVocoder()
        stages = Stages(
            text=WordFrontend(),
            llm=llm,
            flow=flow,
            vocoder=vocoder,
            speech_tokenizer=lambda samples: np.arange(len(samples) // 640, dtype=np.int32),
            speaker_encoder=lambda samples: np.ones(192, np.float32),
            concurrent=request.param,
        )
        return FakeModel(CosyVoice3Model(fake_config(**changes), stages), llm, flow, vocoder)

    return make
