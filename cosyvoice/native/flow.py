"""The flow stage on ONNX Runtime: each step costs only its own frames.

With chunk masks a finished attention chunk never changes, so the estimator is run for one chunk after the other,
from keys, values and convolution states that each evaluation of the solver kept of the chunks before. The chunks of
a reference voice are computed once for all requests with it. Without chunk masks all frames see each other: the
utterance is computed in one run, from its start. Both give what the reference network gives.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import FlowConfig
from cosyvoice.engine.stages import FloatArray, FlowInput, TokenChunk
from cosyvoice.errors import ConfigError, GenerationError, VoiceError
from cosyvoice.native.flow_cache import ContextLimit, EvaluationCache, FlowContext, PromptCache
from cosyvoice.native.flow_encoder import POSITION_CONTEXT, FlowEncoder, FlowVoice, modulations
from cosyvoice.native.noise import released_start_noise
from cosyvoice.native.runtime import Runtime, run
from cosyvoice.native.solver import FlowOptions, SolverPlan, solve

CacheType = Literal["float32", "float16"]
WEIGHTS = "flow.safetensors"
GRAPHS: dict[str, str] = {"float32": "flow.onnx", "float16": "flow_half_cache.onnx"}
"""The estimator for each type of cached keys and values."""
PROMPT_CACHE_BYTES = 512 * 2**20


@dataclass
class NativeFlowState:
    """One utterance: its voice, all tokens so far, how many frames were given out, and the chunks behind."""

    voice: FlowVoice
    key: bytes
    """Stands for the content of the voice."""
    tokens: list[int]
    given: int = 0
    context: FlowContext | None = None
    finished: bool = False


def cache_values(config: FlowConfig, plan: SolverPlan) -> int:
    """Numbers that are cached for each mel frame: keys and values of every layer, row and evaluation."""
    rows = sum(2 if guided else 1 for guided in plan.guided)
    return rows * 2 * config.dit.depth * config.dit.heads * config.dit.dim_head


class NativeFlowStage:
    """Flow of a converted model. Safe from many threads; a state belongs to one of them at a time.

    Args:
        directory: of the converted model.
        config: its flow.
        runtime: makes the session.
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
        config: FlowConfig,
        runtime: Runtime,
        options: FlowOptions | None = None,
        max_context: int | None = None,
        *,
        cache_type: CacheType = "float32",
        prompt_cache_bytes: int = PROMPT_CACHE_BYTES,
        noise: FloatArray | None = None,
    ) -> None:
        self.config = config
        self.plan = SolverPlan.of(config.cfm, options or FlowOptions())
        self._chunk = config.dit.static_chunk_size
        if max_context is not None and max_context < self._chunk:
            raise ConfigError(
                f"max_context is {max_context} frames, less than one attention chunk of {self._chunk}; "
                "use a multiple of that, or None for all"
            )
        if cache_type not in GRAPHS:
            raise ConfigError(f"cache_type is {cache_type!r}; use one of {', '.join(map(repr, GRAPHS))}")
        directory = Path(directory)
        self._max_context = max_context
        self._cache_type = np.dtype(cache_type)
        self._session = runtime.session(directory / GRAPHS[cache_type])
        self._encoder = FlowEncoder(directory / WEIGHTS, config)
        self._modulations = modulations(directory / WEIGHTS, config, self.plan.times)
        self._noise = released_start_noise(config.mel_dim).T if noise is None else np.asarray(noise, np.float32)
        self._prompts = PromptCache(prompt_cache_bytes)
        parts = [f"{part}_{block}" for block in range(config.dit.depth) for part in ("key", "value")]
        self._cache_inputs = [f"past_{part}" for part in parts]
        self._cache_outputs = ["velocity", "next_conv1", "next_conv2", *parts]
        # What the evaluations of a run without earlier frames start from.
        self._start = [self._empty(2 if guided else 1) for guided in self.plan.guided]

    @property
    def cache_bytes_per_second(self) -> int:
        """Memory that a second of speech takes while its stream goes on and `max_context` is not reached."""
        frames = self.config.input_frame_rate * self.config.token_mel_ratio
        return frames * cache_values(self.config, self.plan) * self._cache_type.itemsize

    def init_state(self, inputs: FlowInput) -> NativeFlowState:
        """See `FlowStage`. Raises `ModelError` for a token outside the vocabulary."""
        parts = (inputs.prompt_token, inputs.prompt_mel, inputs.speaker_embedding)
        arrays = [np.ascontiguousarray(part, np.float32) for part in parts]
        digest = hashlib.sha256(repr([array.shape for array in arrays]).encode())
        for array in arrays:
            digest.update(array.tobytes())
        return NativeFlowState(self._encoder.voice(inputs), digest.digest(), [])

    def prepare(self, inputs: FlowInput) -> None:
        """Compute what all streams with this voice share, so that the first of them starts as soon as the others."""
        state = self.init_state(inputs)
        self._prompt_context(state)

    def step(self, chunk: TokenChunk, state: NativeFlowState) -> tuple[FloatArray, NativeFlowState]:
        """See `FlowStage`.

        Raises `GenerationError` also where the state is finished or the estimator gave values that are not finite,
        `VoiceError` where the mel of the reference is longer than its tokens and the text together, and
        `ModelError` for a token outside the vocabulary.
        """
        if state.finished:
            raise GenerationError("the utterance of this state is finished; begin a new one")
        state.tokens += [int(token) for token in chunk.tokens]
        tokens = np.concatenate([state.voice.tokens, self._encoder.checked(state.tokens)])
        frames = self._frames(tokens, state.voice, chunk.finalize)
        # A step that fails leaves caches of some evaluations ahead of others.
        state.finished = True
        if chunk.chunk_masks:
            first, mel = self._in_chunks(tokens, frames, state)
        else:
            first = 0
            mel = self._sample(self._encoder.projected(state.voice, tokens, 0, frames), 0, None)
        state.finished = chunk.finalize
        begin = len(state.voice.mel) + state.given
        state.given += max(frames - begin, 0)
        new = mel[begin - first :] * np.float32(self.config.mel_std) + np.float32(self.config.mel_mean)
        return np.ascontiguousarray(new, np.float32), state

    def _frames(self, tokens: NDArray[np.int64], voice: FlowVoice, finalize: bool) -> int:
        """How many frames the tokens give, those of the prompt included."""
        lookahead = 0 if finalize else self.config.pre_lookahead_len
        if len(tokens) <= lookahead:
            raise GenerationError(
                f"{len(tokens)} speech tokens are too few: the flow keeps the last {lookahead} as "
                "look-ahead; wait for more tokens or finalize"
            )
        frames = (len(tokens) - lookahead) * self.config.token_mel_ratio
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

    def _in_chunks(self, tokens: NDArray[np.int64], frames: int, state: NativeFlowState) -> tuple[int, FloatArray]:
        """Frames up to `frames`, from the first one that is not behind the context for good."""
        if state.context is None:
            state.context = self._prompt_context(state).fork()
        context = state.context
        start = context.frames
        parts = []
        for first in range(start, frames, self._chunk):
            end = min(first + self._chunk, frames)
            projected = self._encoder.projected(state.voice, tokens, first, end)
            # The last chunk of an utterance has no successor, and a part of a chunk will be computed again.
            follows = end < frames or self._is_final(end, len(tokens))
            parts.append(self._sample(projected, first, context, keep=follows and end - first == self._chunk))
        return start, np.concatenate(parts)

    def _is_final(self, frames: int, tokens: int) -> bool:
        """Whether no later token can change the first `frames`."""
        return frames <= (tokens - self.config.pre_lookahead_len) * self.config.token_mel_ratio

    def _prompt_context(self, state: NativeFlowState) -> FlowContext:
        """The chunks of the prompt that are the same whatever is said."""
        return self._prompts.get(state.key, lambda: self._compute_prompt(state.voice))

    def _compute_prompt(self, voice: FlowVoice) -> FlowContext:
        stable = (len(voice.tokens) - self.config.pre_lookahead_len) * self.config.token_mel_ratio
        stable = max(min(stable, len(voice.mel), len(self._noise)), 0) // self._chunk * self._chunk
        context = FlowContext(self._start, ContextLimit.of(self._max_context, self._chunk, stable))
        for first in range(0, stable, self._chunk):
            projected = self._encoder.projected(voice, voice.tokens, first, first + self._chunk)
            self._sample(projected, first, context, keep=True)
        return context

    def _sample(self, projected: FloatArray, first: int, context: FlowContext | None, keep: bool = False) -> FloatArray:
        """Normalised mel [frames, mel_dim] of the run of frames from `first` on, behind `context`.

        `keep` adds the run to the context.
        """
        frames = projected.shape[1]
        cos, sin = self._encoder.angles(first, first + frames)
        constant = {"cos": cos, "sin": sin, "keep": np.array([frames if keep else 0])}

        def velocity(x: FloatArray, evaluation: int) -> FloatArray:
            entry = (self._start if context is None else context.evaluations)[evaluation]
            inputs: dict[str, Any] = {
                **constant,
                **dict(zip(self._cache_inputs, entry.blocks, strict=True)),
                "x": x,
                "projected": projected[: 2 if self.plan.guided[evaluation] else 1],
                "modulation": self._modulations[evaluation],
                "conv1": entry.convolutions[0],
                "conv2": entry.convolutions[1],
            }
            if not keep or context is None:
                return self.plan.guide(run(self._session, ["velocity"], inputs)[0])
            both, conv1, conv2, *new = run(self._session, self._cache_outputs, inputs)
            context.store(evaluation, (conv1, conv2), new)
            return self.plan.guide(both)

        mel = solve(velocity, self._noise[None, first : first + frames], self.plan)[0]
        if not np.isfinite(mel).all():
            raise GenerationError(
                "the flow gave values that are not finite; convert the model to the next higher precision"
            )
        if keep and context is not None:
            context.advance(frames)
        return mel

    def _empty(self, rows: int) -> EvaluationCache:
        dit = self.config.dit
        state = np.zeros((rows, dit.dim, POSITION_CONTEXT), np.float32)
        nothing = np.zeros((rows, dit.heads, 0, dit.dim_head), self._cache_type)
        return EvaluationCache((state, state), (nothing,) * (2 * dit.depth))
