"""The stage of a causal flow on ONNX Runtime: each step costs only its own frames.

With chunk masks a finished attention chunk never changes, so encoder and estimator are run for one chunk after the
other, from keys, values and convolution states that each evaluation of the solver kept of the chunks before. The
chunks of a reference voice are computed once for all requests with it. Without chunk masks all frames see each other:
the utterance is computed in one run, from its start. Both give what the reference network gives.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import CausalMaskedDiffConfig, FlowConfig
from cosyvoice.engine.stages import FloatArray, FlowInput, TokenChunk
from cosyvoice.errors import ConfigError, GenerationError, VoiceError
from cosyvoice.native.blas import one_blas_thread
from cosyvoice.native.flow_cache import ContextLimit, EvaluationCache, FlowContext, PromptCache
from cosyvoice.native.memory import return_free_memory
from cosyvoice.native.noise import released_start_noise
from cosyvoice.native.runtime import Engine, run
from cosyvoice.native.solver import FlowOptions, SolverPlan, solve

CacheType = Literal["float32", "float16"]
WEIGHTS = "flow.safetensors"
GRAPHS: dict[str, str] = {"float32": "flow.onnx", "float16": "flow_half_cache.onnx"}
"""The estimator for each type of cached keys and values."""
PLAIN_GRAPHS: dict[str, str] = {"float32": "flow_plain.onnx", "float16": "flow_plain_half_cache.onnx"}
"""The same in operations of the ONNX standard, for engines besides ONNX Runtime."""
PROMPT_CACHE_BYTES = 288 * 2**20
"""Enough for a voice of three and a half seconds in the released geometry, in half precision."""
LARGE_CACHE = 32 * 2**20
"""Bytes a second of speech from which the heap is tidied around large runs: small models have nothing to gain."""


class Voice(Protocol):
    """The reference of an utterance. Shared between threads, never changed."""

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Speech tokens [tokens]."""
        ...

    @property
    def mel(self) -> FloatArray:
        """Normalised [frames, mel_dim]."""
        ...


@dataclass(frozen=True)
class CacheLayout:
    """What the estimator's graph carries from one chunk to the next."""

    convolutions: tuple[tuple[int, int], ...]
    """Channels and frames of the state of each convolution."""
    layers: int
    """Of attention, with keys and values each."""
    heads: int
    dim_head: int

    @property
    def values(self) -> int:
        """Numbers that are cached for each mel frame of a row."""
        return 2 * self.layers * self.heads * self.dim_head

    def empty(self, rows: int, cache_type: np.dtype[Any]) -> EvaluationCache:
        """What a run without earlier frames starts from."""
        states = tuple(np.zeros((rows, channels, frames), np.float32) for channels, frames in self.convolutions)
        nothing = np.zeros((rows, self.heads, 0, self.dim_head), cache_type)
        return EvaluationCache(states, (nothing,) * (2 * self.layers))


@dataclass
class ChunkedFlowState:
    """One utterance: its voice, all tokens so far, how many frames were given out, and the chunks behind."""

    voice: Any
    key: bytes
    """Stands for the content of the voice."""
    tokens: list[int]
    given: int = 0
    context: FlowContext | None = None
    finished: bool = False


class ChunkedFlowStage(ABC):
    """Flow of a converted model. Safe from many threads; a state belongs to one of them at a time.

    Subclasses say what the estimator is given besides the noisy mel. Its graph has the inputs x [1, frames, mel_dim],
    keep, conv1.. and past_key_0, past_value_0.. of `layout`, and as outputs velocity [rows, frames, mel_dim],
    next_conv1.. and key_0, value_0...

    Args:
        directory: of the converted model.
        config: its flow.
        chunk_frames: mel frames of an attention chunk.
        layout: of the estimator's caches.
        engine: makes the session.
        options: how the flow is sampled.
        max_context: mel frames of context that a chunk attends to; None: all, as the reference does. Else memory and
            the cost of a chunk stay within a bound, and the result is an approximation: the beginning of the prompt,
            in at most half of the context, and the latest chunks are attended to.
        cache_type: precision of cached keys and values.
        prompt_cache_bytes: bound of the memory for voices; 0 keeps none.
        noise: start noise [frames, mel_dim] by position; None: that of the released models.

    Raises `ConfigError` for values out of range, `ModelError` for a directory that is damaged or incomplete.
    """

    def __init__(
        self,
        directory: Path,
        config: FlowConfig | CausalMaskedDiffConfig,
        chunk_frames: int,
        layout: CacheLayout,
        engine: Engine,
        options: FlowOptions | None,
        max_context: int | None,
        cache_type: CacheType,
        prompt_cache_bytes: int,
        noise: FloatArray | None,
    ) -> None:
        self.plan = SolverPlan.of(config.cfm, options or FlowOptions())
        if max_context is not None and max_context < chunk_frames:
            raise ConfigError(
                f"max_context is {max_context} frames, less than one attention chunk of {chunk_frames}; "
                "use a multiple of that, or None for all"
            )
        if cache_type not in GRAPHS:
            raise ConfigError(f"cache_type is {cache_type!r}; use one of {', '.join(map(repr, GRAPHS))}")
        self._causal_config = config
        self._chunk = chunk_frames
        self._layout = layout
        self._max_context = max_context
        self._cache_type = np.dtype(cache_type)
        self._session = engine.session(Path(directory) / (PLAIN_GRAPHS if engine.plain else GRAPHS)[cache_type])
        self._noise = released_start_noise(config.mel_dim).T if noise is None else np.asarray(noise, np.float32)
        self._prompts = PromptCache(prompt_cache_bytes)
        states = [f"conv{index + 1}" for index in range(len(layout.convolutions))]
        parts = [f"{part}_{layer}" for layer in range(layout.layers) for part in ("key", "value")]
        self._cache_inputs = [*states, *(f"past_{part}" for part in parts)]
        self._cache_outputs = ["velocity", *(f"next_{state}" for state in states), *parts]
        # What the evaluations of a run without earlier frames start from.
        self._start = [layout.empty(2 if guided else 1, self._cache_type) for guided in self.plan.guided]

    @property
    def cache_bytes_per_second(self) -> int:
        """Memory that a second of speech takes while its stream goes on and `max_context` is not reached."""
        config = self._causal_config
        rate = config.input_frame_rate * config.token_mel_ratio
        return rate * self.plan.rows * self._layout.values * self._cache_type.itemsize

    @abstractmethod
    def _voice(self, inputs: FlowInput) -> Voice:
        """Everything about the reference that does not depend on what is said. Raises `ModelError` for a token outside
        the vocabulary."""

    @abstractmethod
    def _checked(self, tokens: Sequence[int]) -> NDArray[np.int64]:
        """Token ids for the embedding. Raises `ModelError` for one outside the vocabulary."""

    @abstractmethod
    def _conditions(
        self, voice: Any, tokens: NDArray[np.int64], first: int, end: int, context: FlowContext | None, keep: bool
    ) -> dict[str, Any]:
        """What the estimator is given of frames first..end - 1, the same at all flow times; arrays by row have two.

        `tokens` are those of reference and utterance so far, `context` what lies before `first`; None: nothing. `keep`
        adds the run to it.
        """

    @abstractmethod
    def _evaluation_inputs(self, conditions: dict[str, Any], evaluation: int) -> dict[str, Any]:
        """Inputs of the estimator besides noisy mel and caches, with as many rows as the evaluation has."""

    def _start_context(self) -> list[EvaluationCache]:
        """What a context holds before the first chunk; the entries of the solver's evaluations come first."""
        return self._start

    @one_blas_thread
    def init_state(self, inputs: FlowInput) -> ChunkedFlowState:
        """See `FlowStage`. Raises `ModelError` for a token outside the vocabulary."""
        parts = (inputs.prompt_token, inputs.prompt_mel, inputs.speaker_embedding)
        arrays = [np.ascontiguousarray(part, np.float32) for part in parts]
        digest = hashlib.sha256(repr([array.shape for array in arrays]).encode())
        for array in arrays:
            digest.update(array.tobytes())
        return ChunkedFlowState(self._voice(inputs), _speaker_key(inputs.speaker_embedding) + digest.digest(), [])

    def forget(self, speaker_embedding: FloatArray) -> None:
        """See `RemembersVoices`."""
        self._prompts.forget(_speaker_key(speaker_embedding))

    @one_blas_thread
    def prepare(self, inputs: FlowInput) -> None:
        """Compute what all streams with this voice share, so that the first of them starts as soon as the others."""
        state = self.init_state(inputs)
        self._prompt_context(state)

    @one_blas_thread
    def step(self, chunk: TokenChunk, state: ChunkedFlowState) -> tuple[FloatArray, ChunkedFlowState]:
        """See `FlowStage`.

        Raises `GenerationError` also where the state is finished or the estimator gave values that are not finite,
        `VoiceError` where the mel of the reference is longer than its tokens and the text together, and
        `ModelError` for a token outside the vocabulary.
        """
        if state.finished:
            raise GenerationError("the utterance of this state is finished; begin a new one")
        config = self._causal_config
        state.tokens += [int(token) for token in chunk.tokens]
        tokens = np.concatenate([state.voice.tokens, self._checked(state.tokens)])
        frames = self._frames(tokens, state.voice, chunk.finalize)
        # A step that fails leaves caches of some evaluations ahead of others.
        state.finished = True
        if chunk.chunk_masks:
            first, mel = self._in_chunks(tokens, frames, state)
        else:
            first, mel = 0, self._sample(state.voice, tokens, 0, frames, None)
            self._tidy()
        state.finished = chunk.finalize
        begin = len(state.voice.mel) + state.given
        state.given += max(frames - begin, 0)
        new = mel[begin - first :] * np.float32(config.mel_std) + np.float32(config.mel_mean)
        return np.ascontiguousarray(new, np.float32), state

    def _frames(self, tokens: NDArray[np.int64], voice: Voice, finalize: bool) -> int:
        """How many frames the tokens give, those of the prompt included."""
        config = self._causal_config
        lookahead = 0 if finalize else config.pre_lookahead_len
        if len(tokens) <= lookahead:
            raise GenerationError(
                f"{len(tokens)} speech tokens are too few: the flow keeps the last {lookahead} as "
                "look-ahead; wait for more tokens or finalize"
            )
        frames = (len(tokens) - lookahead) * config.token_mel_ratio
        if len(voice.mel) >= frames:
            raise VoiceError(
                f"the mel of the reference has {len(voice.mel)} frames, but prompt and text together "
                f"only {frames}; cut the reference mel to its tokens"
            )
        if frames > len(self._noise):
            raise GenerationError(
                f"{frames} mel frames were asked for, but there is start noise for {len(self._noise)} only; "
                "split the text or pass longer noise"
            )
        return frames

    def _in_chunks(self, tokens: NDArray[np.int64], frames: int, state: ChunkedFlowState) -> tuple[int, FloatArray]:
        """Frames up to `frames`, from the first one that is not behind the context for good."""
        # The vocoder's last chunk has left as much in the heap as the flow's next one takes.
        self._tidy()
        if state.context is None:
            state.context = self._prompt_context(state).fork()
        context = state.context
        start = context.frames
        parts = []
        for first in range(start, frames, self._chunk):
            end = min(first + self._chunk, frames)
            # The last chunk of an utterance has no successor, and a part of a chunk will be computed again.
            follows = end < frames or self._is_final(end, len(tokens))
            keep = follows and end - first == self._chunk
            parts.append(self._sample(state.voice, tokens, first, end, context, keep))
        self._tidy()
        return start, np.concatenate(parts)

    def _is_final(self, frames: int, tokens: int) -> bool:
        """Whether no later token can change the first `frames`."""
        config = self._causal_config
        return frames <= (tokens - config.pre_lookahead_len) * config.token_mel_ratio

    def _prompt_context(self, state: ChunkedFlowState) -> FlowContext:
        """The chunks of the prompt that are the same whatever is said."""
        return self._prompts.get(state.key, lambda: self._compute_prompt(state.voice))

    def _compute_prompt(self, voice: Voice) -> FlowContext:
        config = self._causal_config
        stable = (len(voice.tokens) - config.pre_lookahead_len) * config.token_mel_ratio
        stable = max(min(stable, len(voice.mel), len(self._noise)), 0) // self._chunk * self._chunk
        self._tidy()
        context = FlowContext(self._start_context(), ContextLimit.of(self._max_context, self._chunk, stable))
        for first in range(0, stable, self._chunk):
            self._sample(voice, voice.tokens, first, first + self._chunk, context, keep=True)
        self._tidy()
        return context

    def _tidy(self) -> None:
        """Free what runs left in the heap, hundreds of megabytes for a whole utterance, for what comes next."""
        if self.cache_bytes_per_second > LARGE_CACHE:
            return_free_memory()

    def _sample(
        self,
        voice: Voice,
        tokens: NDArray[np.int64],
        first: int,
        end: int,
        context: FlowContext | None,
        keep: bool = False,
    ) -> FloatArray:
        """Normalised mel [frames, mel_dim] of frames first..end - 1, behind `context`.

        `keep` adds the run to the context.
        """
        conditions = self._conditions(voice, tokens, first, end, context, keep)
        kept = np.array([end - first if keep else 0])

        def velocity(x: FloatArray, evaluation: int) -> FloatArray:
            entry = (self._start if context is None else context.evaluations)[evaluation]
            inputs: dict[str, Any] = {
                **self._evaluation_inputs(conditions, evaluation),
                **dict(zip(self._cache_inputs, (*entry.convolutions, *entry.blocks), strict=True)),
                "x": x,
                "keep": kept,
            }
            if not keep or context is None:
                return self.plan.guide(run(self._session, ["velocity"], inputs)[0])
            both, *new = run(self._session, self._cache_outputs, inputs)
            states = len(entry.convolutions)
            context.store(evaluation, tuple(new[:states]), new[states:])
            return self.plan.guide(both)

        mel = solve(velocity, self._noise[None, first:end], self.plan)[0]
        if not np.isfinite(mel).all():
            raise GenerationError(
                "the flow gave values that are not finite; convert the model to the next higher precision"
            )
        if keep and context is not None:
            context.advance(end - first)
        return mel


def _speaker_key(embedding: FloatArray) -> bytes:
    """What the keys of all prompts of a speaker begin with, however much of the reference they take."""
    return hashlib.sha256(np.ascontiguousarray(embedding, np.float32).tobytes()).digest()
