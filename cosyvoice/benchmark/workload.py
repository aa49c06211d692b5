"""What the contenders work on: the same inputs and the same number of steps for all of them.

A language model with random weights never stops, and two precisions of one model say different numbers of tokens.
So the tokens of an utterance are written down beforehand: the language model computes every step as usual, but what
it chooses is the next token of the script. Flow and vocoder cost the same whatever the tokens are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from cosyvoice.config.model import ModelConfig
from cosyvoice.engine.guard import Guard, LengthLimits
from cosyvoice.engine.models import model_of
from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.stages import Choose, ChoosesTokens, FloatArray, FlowInput, LLMInput, LLMStage, TextStream
from cosyvoice.errors import ConfigError
from cosyvoice.voice.store import VoiceStore
from cosyvoice.voice.voice import Voice

PROMPT_SECONDS = 3.5
PROMPT_TEXT_TOKENS, TEXT_TOKENS = 30, 60
"""With the speech tokens of the prompt, the language model decodes at a context of about 200."""
TEXT = "The text of a script is never read."
_ANY_LENGTH = LengthLimits(shortest=0.0, longest=1000.0, slack_seconds=1000.0)
UNGUARDED = Guard(retries=0, length=_ANY_LENGTH, guessed_length=_ANY_LENGTH)
"""A script is no speech: it is spoken to its end at the first attempt."""
MEL_MEAN, MEL_STD = -6.0, 2.0
"""Of log-mel of speech, roughly."""


@dataclass(frozen=True)
class Workload:
    """Inputs of every stage for an utterance of `seconds`, the same in every call."""

    config: ModelConfig
    seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ConfigError(f"{self.seconds:g} s of audio hold no speech token; use at least 1 s")

    @property
    def tokens(self) -> int:
        """Speech tokens of the utterance."""
        return int(self.seconds * self.config.flow.input_frame_rate)

    @property
    def voice(self) -> Voice:
        """A reference of `PROMPT_SECONDS` and random content."""
        config, rng = self.config, np.random.default_rng(0)
        tokens = int(PROMPT_SECONDS * config.flow.input_frame_rate)
        return Voice(
            name="random",
            speech_token=rng.integers(0, config.llm.speech_token_size, tokens).astype(np.int32),
            mel=_mel(rng, int(tokens * config.frames_per_token), config).astype(np.float16),
            speaker_embedding=rng.standard_normal(config.flow.speaker_embedding_dim).astype(np.float32),
            transcript=TEXT,
            model=config.name,
        )

    def script(self, tokens: int) -> list[int]:
        """Speech tokens to be said; none comes twice in a row or soon again, so no sampler interferes."""
        config = self.config
        order = np.random.default_rng(1).permutation(config.llm.speech_token_size)
        spoken = order[~np.isin(order, config.silent_tokens)]
        return [int(spoken[index % len(spoken)]) for index in range(tokens)]

    def llm_input(self, number: int = 0) -> LLMInput:
        """What the language model reads before request `number`."""
        rng = np.random.default_rng([2, number])
        text = rng.integers(0, self._text_ids, TEXT_TOKENS).tolist()
        voice = self.voice
        return LLMInput(text, self.prompt_text(), voice.speech_token.tolist(), voice.speaker_embedding)

    def prompt_text(self) -> list[int]:
        """Text tokens of the reference, with the end-of-prompt mark where the model needs one."""
        mark = [] if self.config.end_of_prompt_id is None else [self.config.end_of_prompt_id]
        return [*np.random.default_rng(3).integers(0, self._text_ids, PROMPT_TEXT_TOKENS).tolist(), *mark]

    def flow_input(self) -> FlowInput:
        """The conditions of the flow."""
        voice = self.voice
        return FlowInput(voice.speech_token, voice.mel.astype(np.float32), voice.speaker_embedding)

    def mel(self) -> FloatArray:
        """Log-mel [frames, n_mels] of the utterance."""
        return _mel(np.random.default_rng(4), int(self.tokens * self.config.frames_per_token), self.config)

    def scripted(self, tts: TTS, seconds: float | None = None) -> TTS:
        """`tts` speaking the script of `seconds` (by default those of the workload), whatever it is asked to say."""
        count = self.tokens if seconds is None else int(seconds * self.config.flow.input_frame_rate)
        llm = self.config.llm
        # As many text tokens as allow for the script: half of the most that the model may say to them.
        text = np.random.default_rng(5).integers(0, self._text_ids, math.ceil(2 * count / llm.max_token_text_ratio))
        stages = replace(
            tts.model.stages,
            text=FixedText(text.tolist(), self.prompt_text()),
            llm=scripted_llm(tts.model.stages.llm, self.script(count), tts.model.stop_ids[-1]),
        )
        return TTS(model_of(self.config, stages), VoiceStore())

    @property
    def _text_ids(self) -> int:
        """Text tokens below this number are words."""
        size = self.config.llm.text_token_size
        return min(size, self.config.end_of_prompt_id or size)


def _mel(rng: np.random.Generator, frames: int, config: ModelConfig) -> FloatArray:
    return rng.normal(MEL_MEAN, MEL_STD, (frames, config.mel.n_mels)).astype(np.float32)


def scripted_llm(stage: LLMStage, script: Sequence[int], stop_id: int) -> ScriptedLLM:
    """`stage` saying `script`, by the same way as without one."""
    kind = _ScriptedTokens if isinstance(stage, ChoosesTokens) else ScriptedLLM
    return kind(stage, script, stop_id)


class ScriptedLLM:
    """A language model that computes every step and then says the next token of a script, at last `stop_id`."""

    def __init__(self, stage: LLMStage, script: Sequence[int], stop_id: int) -> None:
        self._stage = stage
        self._script = [*script, stop_id]

    def init_state(self, inputs: LLMInput) -> tuple[Any, int]:
        """See `LLMStage`."""
        return self._stage.init_state(inputs), 0

    def step(self, token: int | None, state: tuple[Any, int]) -> tuple[FloatArray, tuple[Any, int]]:
        """See `LLMStage`."""
        inner, position = state
        scores, inner = self._stage.step(token, inner)
        return self._forced(scores, position), (inner, position + 1)

    def release(self, state: tuple[Any, int]) -> None:
        """See `LLMStage`."""
        self._stage.release(state[0])

    def text_stream(self, inputs: LLMInput, sampler: Any, limit: int | None = None) -> TextStream:
        """Not for benchmarks: raises `ConfigError`."""
        raise ConfigError("a scripted language model reads whole texts only; give it the text at once")

    def _forced(self, scores: FloatArray, position: int) -> FloatArray:
        """Log-probabilities like `scores` that leave one choice."""
        forced = np.full_like(scores, -np.inf)
        forced[self._script[position]] = 0.0
        return forced


class _ScriptedTokens(ScriptedLLM):
    """The same on a language model that applies the choices of tokens itself."""

    def tokens(self, state: tuple[Any, int], choose: Choose, limit: int) -> Iterator[int]:
        """See `ChoosesTokens`."""
        inner, position = state
        positions = itertools.count(position)
        return cast(ChoosesTokens, self._stage).tokens(
            inner, lambda scores: choose(self._forced(scores, next(positions))), limit
        )


@dataclass(frozen=True)
class FixedText:
    """A text frontend that reads any text as the same tokens."""

    text: list[int]
    prompt: list[int]

    def split(self, text: str) -> list[str]:
        """See `TextFrontend`."""
        return [text]

    def encode(self, text: str) -> list[int]:
        """See `TextFrontend`."""
        return self.text

    def encode_prompt(self, text: str) -> list[int]:
        """See `TextFrontend`."""
        return self.prompt

    def count_phones(self, text: str) -> int:
        """See `TextFrontend`."""
        return len(self.text)
