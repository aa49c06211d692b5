"""The stage of a flow in which every frame sees its whole call, over any implementation of its networks.

Such a flow cannot continue a mel. Each chunk is computed on its own and begins with the last tokens of the one before,
whose frames were withheld; there the two are cross-faded. They agree in that overlap because a chunk takes over the
start noise and the encoder output of the frames it has in common with the chunk before, and those of the prompt. A
chunk costs the same wherever it stands in the utterance. Start noise belongs to the position of a frame, so the same
request gives the same mel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cosyvoice.config.model import MaskedDiffConfig
from cosyvoice.engine.compat import Compat, check_compat
from cosyvoice.engine.cross_fade import cross_fade
from cosyvoice.engine.stages import FloatArray, FlowInput, TokenChunk
from cosyvoice.errors import GenerationError


class ChunkNoise(Protocol):
    """Where the ODE of a chunk starts."""

    def __call__(self, step: int, prompt_frames: int, first: int, frames: int) -> FloatArray:
        """Standard normal [prompt_frames + frames, mel_dim].

        `step` counts the chunks of the utterance from 0; `first` is the position of the chunk's first frame in the
        utterance, the prompt not counted.
        """
        ...


class PositionNoise:
    """A fixed noise [frames, mel_dim]: the prompt takes its beginning, the utterance what follows."""

    def __init__(self, noise: FloatArray) -> None:
        self._noise = noise

    def __call__(self, step: int, prompt_frames: int, first: int, frames: int) -> FloatArray:
        """See `ChunkNoise`; raises `GenerationError` behind its end."""
        begin, end = prompt_frames + first, prompt_frames + first + frames
        if end > len(self._noise):
            raise GenerationError(
                f"{end} mel frames were asked for, but there is start noise for {len(self._noise)} only; "
                "split the text or pass longer noise"
            )
        return np.concatenate([self._noise[:prompt_frames], self._noise[begin:end]])


class ChunkFlow(Protocol):
    """What an implementation computes for the stage; it remembers nothing and is safe from many threads."""

    def voice(self, inputs: FlowInput) -> Any:
        """The reference in the form that `sample` takes."""
        ...

    def sample(
        self, voice: Any, tokens: Sequence[int], noise: FloatArray, cache: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """Mel [frames, mel_dim] of a chunk of `tokens`, and its cache; `cache` is that of the chunk before.

        `noise` is that of `ChunkNoise`. A cache [frames, mel_dim, 2] holds start noise and encoder output of the prompt
        and of the last `cached_frames`.
        """
        ...


@dataclass
class OverlappedFlowState:
    """One utterance: its voice, the tokens that the next chunk begins with, and what it takes over."""

    voice: Any
    prompt_frames: int
    tokens: list[int]
    held: FloatArray
    """Mel of the overlap [frames, mel_dim], withheld for the cross-fade."""
    cache: FloatArray | None = None
    first: int = 0
    """Position of the next chunk's first frame, the prompt not counted."""
    steps: int = 0
    finished: bool = False


class OverlappedFlowStage:
    """Flow of overlapping chunks. Safe from many threads; a state belongs to one of them at a time.

    Args:
        flow: computes chunks.
        config: of the flow.
        noise: start noise of the chunks.
        compat: "released" cross-fades with the halves of a Hamming window as they are, which sum to 1.08.

    Raises `ConfigError` for another `compat`.
    """

    def __init__(
        self, flow: ChunkFlow, config: MaskedDiffConfig, noise: ChunkNoise, compat: Compat = "corrected"
    ) -> None:
        check_compat(compat)
        self.config = config
        self.flow, self._noise, self._compat = flow, noise, compat

    def init_state(self, inputs: FlowInput) -> OverlappedFlowState:
        """See `FlowStage`."""
        nothing = np.zeros((0, self.config.mel_dim), np.float32)
        return OverlappedFlowState(self.flow.voice(inputs), len(inputs.prompt_mel), [], nothing)

    def step(self, chunk: TokenChunk, state: OverlappedFlowState) -> tuple[FloatArray, OverlappedFlowState]:
        """See `FlowStage`; there are no chunk masks, whatever `chunk` says. A step that fails changes nothing.

        Raises `GenerationError` also where the state is finished.
        """
        if state.finished:
            raise GenerationError("the utterance of this state is finished; begin a new one")
        config = self.config
        tokens = [*state.tokens, *(int(token) for token in chunk.tokens)]
        if not chunk.finalize and len(tokens) <= config.overlap_tokens:
            raise GenerationError(
                f"{len(tokens)} speech tokens are too few: the flow keeps the last {config.overlap_tokens} for the "
                "next chunk; wait for more tokens or finalize"
            )
        noise = self._noise(state.steps, state.prompt_frames, state.first, config.mel_frames(len(tokens)))
        mel, cache = self.flow.sample(state.voice, tokens, noise, state.cache)
        mel = self._faded(state.held, mel)
        state.steps += 1
        state.finished = chunk.finalize
        if chunk.finalize:
            return mel, state
        given = max(len(mel) - config.overlap_frames, 0)
        state.tokens, state.cache = tokens[-config.overlap_tokens :], cache
        state.held = mel[given:]
        state.first += given
        return np.ascontiguousarray(mel[:given]), state

    def _faded(self, held: FloatArray, mel: FloatArray) -> FloatArray:
        """`mel`, its beginning cross-faded with the frames that were `held` back."""
        count = min(len(held), len(mel))
        if not count:
            return mel
        rise, fall = cross_fade(count, self._compat)
        head = mel[:count] * rise[:, None] + held[:count] * fall[:, None]
        return np.concatenate([head, mel[count:]])
