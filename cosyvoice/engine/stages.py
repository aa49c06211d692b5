"""What the engine asks of an implementation of the networks: one protocol a stage.

The pipeline knows the networks only through these protocols, so PyTorch and any other runtime can stand
behind them. Everything that is remembered between two steps lives in a state that the stage makes and the
caller keeps and passes back; a stage itself remembers nothing of a request, so requests can never touch each
other's state. All arrays are NumPy arrays of one utterance, without a batch dimension, time first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
State = Any
"""Opaque to the engine: each stage chooses its own type."""
Choose = Callable[[FloatArray], "int | None"]
"""The next token from log-probabilities [outputs]; None ends the utterance."""


@dataclass(frozen=True)
class LLMInput:
    """What the language model reads before it speaks."""

    text: Sequence[int]
    """Text tokens to be spoken."""
    prompt_text: Sequence[int] = ()
    """Text tokens of the reference (or an instruction), read before `text`."""
    prompt_speech_token: Sequence[int] = ()
    """Speech tokens of the reference, which the generated ones continue."""
    speaker_embedding: FloatArray | None = None
    """Of the speaker [speaker_embedding_dim], of any norm; read by the first generation only, which can do without."""


class TextStream(Protocol):
    """An utterance whose text is still arriving; owned by one caller. The iterators compute as they are read."""

    def push(self, text: Sequence[int]) -> Iterator[int]:
        """Add text tokens; yield the speech tokens that can be said to the text so far, often none.

        Raises `TextError` for ids that the model does not have and after `finish`, and `GenerationError` where the
        model ends amid the text.
        """
        ...

    def finish(self) -> Iterator[int]:
        """Declare the text complete; yield speech tokens until the model stops."""
        ...

    def close(self) -> None:
        """Give back what the utterance holds. Called however it ends, and may be called twice."""
        ...


class LLMStage(Protocol):
    """Text tokens in, scores of the next speech token out."""

    def init_state(self, inputs: LLMInput) -> State:
        """A sequence that holds `inputs` and nothing generated yet; it computes nothing.

        Raises `TextError` or `VoiceError` for ids that the model does not have.
        """
        ...

    def step(self, token: int | None, state: State) -> tuple[FloatArray, State]:
        """Append `token`, the choice of the last step (None in the first one).

        Returns the log-probabilities [outputs] of the next id. A batched implementation may gather the steps
        of requests that run at the same time; the result of each must not depend on the others.
        """
        ...

    def release(self, state: State) -> None:
        """Give back what `state` holds; it is not used again. Called however a request ends."""
        ...

    def text_stream(
        self, inputs: LLMInput, sampler: Callable[[FloatArray, Sequence[int]], int], limit: int | None = None
    ) -> TextStream:
        """An utterance that begins before its text is known: `inputs` has the prompt, its `text` is not read.

        `sampler` chooses an output id from log-probabilities [outputs] and the ids chosen so far; `limit` bounds the
        speech tokens. Raises `TextError` and `VoiceError` as `init_state` does, and `ConfigError` for a model that
        reads whole texts only.
        """
        ...


@runtime_checkable
class ChoosesTokens(Protocol):
    """A language model that applies the choices of tokens itself, so that concurrent requests need not take turns."""

    def tokens(self, state: State, choose: Choose, limit: int) -> Iterator[int]:
        """What is chosen in the steps of a new `state`, up to `limit` tokens or until `choose` says None.

        `choose` is called once a step, in order, but perhaps in another thread and some steps before its token is
        taken; it is called no more once `state` was released. What it raises is raised here, behind the tokens before.
        It must not ask this stage for anything: others wait while it chooses.
        """
        ...


@dataclass(frozen=True)
class FlowInput:
    """What the flow is conditioned on throughout an utterance."""

    prompt_token: IntArray
    """Speech tokens of the reference [tokens]."""
    prompt_mel: FloatArray
    """Log-mel of the reference [frames, n_mels], `token_mel_ratio` frames a token."""
    speaker_embedding: FloatArray
    """[speaker_embedding_dim], of any norm."""


@dataclass(frozen=True)
class TokenChunk:
    """Speech tokens that are new since the last step."""

    tokens: Sequence[int]
    finalize: bool
    """The utterance ends here. Otherwise the last `pre_lookahead_len` tokens so far are only looked at."""
    chunk_masks: bool
    """Attention sees whole chunks of the past only, so that frames once given out never change."""


class FlowStage(Protocol):
    """Speech tokens in, log-mel out."""

    def init_state(self, inputs: FlowInput) -> State:
        """An utterance in which nothing was said yet."""
        ...

    def step(self, chunk: TokenChunk, state: State) -> tuple[FloatArray, State]:
        """Log-mel [frames, n_mels] of the frames that are new since the last step.

        Raises `GenerationError` where the tokens so far are too few to give a frame, or the utterance too
        long.
        """
        ...


@dataclass(frozen=True)
class MelChunk:
    """Log-mel frames that are new since the last step."""

    mel: FloatArray
    """[frames, n_mels]"""
    finalize: bool
    """The utterance ends here. Otherwise the last frames so far are only looked at."""


@runtime_checkable
class RemembersVoices(Protocol):
    """A stage that keeps something of the voices it spoke with, so that the next request begins sooner."""

    def forget(self, speaker_embedding: FloatArray) -> None:
        """Drop all that is kept of voices with exactly this embedding [speaker_embedding_dim]."""
        ...


class VocoderStage(Protocol):
    """Log-mel in, samples out."""

    def init_state(self) -> State:
        """An utterance in which nothing was said yet."""
        ...

    def step(self, chunk: MelChunk, state: State) -> tuple[FloatArray, State]:
        """Samples [time] that are new since the last step; none where the frames so far are too few."""
        ...


class SpeechTokenizer(Protocol):
    """Reference audio to speech tokens."""

    def __call__(self, samples: FloatArray) -> IntArray:
        """Token ids [tokens] of mono `samples` [time] at 16 kHz."""
        ...


class SpeakerEncoder(Protocol):
    """Reference audio to a speaker embedding."""

    def __call__(self, samples: FloatArray) -> FloatArray:
        """Embedding [speaker_embedding_dim] of mono `samples` [time] at 16 kHz."""
        ...


class TextFrontend(Protocol):
    """Written text to text tokens."""

    def split(self, text: str) -> list[str]:
        """Pieces to be spoken one after the other, in order.

        Raises `TextError` for text without anything to speak, or in a script that the model never saw.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """Text tokens of a piece."""
        ...

    def encode_prompt(self, text: str) -> list[int]:
        """Text tokens of a transcript or an instruction, which is read as it stands."""
        ...

    def count_phones(self, text: str) -> int:
        """How many phones a speaker would say for `text`, exactly or by estimate."""
        ...


class TokenRecogniser(Protocol):
    """Hears in speech tokens whether they say a text."""

    def words(self, text: str) -> list[tuple[str, ...]]:
        """The phones of every word that is spoken for a piece."""
        ...

    def scores(self, tokens: Sequence[int], words: Sequence[Sequence[str]]) -> list[float]:
        """Mean probability of the phones of each of `words`, 0 to 1, where `tokens` say them best."""
        ...


@dataclass(frozen=True)
class Stages:
    """All parts of one loaded model."""

    text: TextFrontend
    llm: LLMStage
    flow: FlowStage
    vocoder: VocoderStage
    speech_tokenizer: SpeechTokenizer
    speaker_encoder: SpeakerEncoder
    recogniser: TokenRecogniser | None = None
    """Reads this model's own speech tokens; None where it comes with none."""
    concurrent: bool = False
    """Whether it pays to run the language model beside flow and vocoder, in threads of one process."""
    description: dict[str, str] = field(default_factory=dict)
    """What runs the stages, for reports: backend, device, threads."""
