"""Stand-ins: flow and vocoder that note their calls, and a language model that says what it is told.

Flow and vocoder are wrapped, not changed. Networks of the reference compute an utterance from its start in every
call; the wrapper of a stage, which gives out what is new, notes its calls as if it did the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosyvoice.engine.joint_vocoder import VocoderNetworks
from cosyvoice.engine.overlapped_flow import ChunkFlow
from cosyvoice.engine.stages import (
    FloatArray,
    FlowInput,
    FlowStage,
    LLMInput,
    MelChunk,
    TextStream,
    TokenChunk,
    VocoderStage,
)
from cosyvoice.errors import ConfigError
from cosyvoice.parity.golden import F0_TOLERANCE, TOLERANCE, Topic

Array = NDArray[Any]


@dataclass
class Calls:
    """What flow and vocoder were called with and what they returned.

    A call of the flow has `token` [1, tokens], `mel` [1, n_mels, frames], the number `first` of its first new frame,
    `streaming` and `finalize`; one of a flow of overlapping chunks has the `noise` [1, n_mels, frames] it began with
    instead of the last two. A call of the vocoder has `mel`, `source` [1, 1, time] and `samples` [1, time], both of
    the recorded mel where that agrees with ours, and `finalize`.
    """

    flow: list[dict[str, Any]] = field(default_factory=list)
    hift: list[dict[str, Any]] = field(default_factory=list)
    recorded_mels: Callable[[int], list[Array]] = lambda index: []
    """What was recorded that may have been the mel of a call of the vocoder."""
    recorded_sources: Callable[[int], list[Array]] = lambda index: []
    """The recorded source signal of a call of the vocoder, if there is one."""

    def begin(self, topic: Topic, case: str) -> None:
        """Forget the calls; those that follow belong to `case`."""
        self.flow.clear()
        self.hift.clear()

        def recorded_mels(index: int) -> list[Array]:
            # Where the vocoder got what the flow had returned, it was recorded once.
            names = (f"{case}.hift{index}.mel", f"{case}.flow{index}.mel")
            return [topic[name] for name in names if name in topic]

        self.recorded_mels = recorded_mels
        self.recorded_sources = lambda index: [topic[name] for name in [f"{case}.hift{index}.source"] if name in topic]

    def recorded_mel(self, mel: Array) -> Array:
        """The record of `mel`, which the vocoder gets next; `mel` itself where there is none, or it differs."""
        return _agreeing(mel, self.recorded_mels(len(self.hift)), TOLERANCE)

    def recorded_source(self, source: Array) -> Array:
        """The record of `source`, likewise, which the vocoder decodes next."""
        tolerance = source_tolerance([source, *(call["source"] for call in self.hift)])
        return _agreeing(source, self.recorded_sources(len(self.hift)), tolerance)


SINE_AMPLITUDE = 0.1


def source_tolerance(sources: Sequence[Array]) -> float:
    """What the last of the source signals [1, 1, time] of an utterance may be off by.

    The phase of a harmonic that is summed in single precision, 2 pi for each sample at most, is known to half a unit in
    its last place, and so is a sine of it. A chunk may begin with the end of an earlier one.
    """
    phase = 2 * np.pi * max(source.shape[-1] for source in sources)
    return max(F0_TOLERANCE, SINE_AMPLITUDE * phase * float(np.finfo(np.float32).eps) / 2)


def _agreeing(values: Array, records: list[Array], tolerance: float) -> Array:
    """The first of `records` that `values` agree with; `values` themselves where there is none."""
    for recorded in records:
        if recorded.shape == values.shape and float(np.abs(recorded - values).max()) <= tolerance:
            return recorded
    return values


class ObservedFlow:
    """Stands before the flow network and notes its calls."""

    def __init__(self, network: Any, calls: Calls) -> None:
        self._network, self._calls = network, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def inference(self, token: Tensor, *args: Any, **options: Any) -> Tensor:
        mel: Tensor = self._network.inference(token, *args, **options)
        self._calls.flow.append({"token": token.clone(), "mel": mel, "first": 0, **options})
        return mel


class ObservedVocoder:
    """Stands before the vocoder network and notes its calls, each with the source signal it made."""

    def __init__(self, network: Any, calls: Calls) -> None:
        self._network, self._calls = network, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def inference(self, mel: Tensor, noise: Any, finalize: bool = True) -> Tensor:
        own: Tensor = self._network.inference(mel, noise, finalize)
        recorded = torch.from_numpy(self._calls.recorded_mel(mel.numpy()))
        sources: list[Tensor] = []
        hook = self._network.m_source.register_forward_hook(lambda _, __, source: sources.append(source))
        try:
            samples = self._network.inference(recorded, noise, finalize)
        finally:
            hook.remove()
        self._calls.hift.append({"mel": mel, "source": sources[0], "samples": samples, "finalize": finalize})
        return own


@dataclass
class FlowCalls:
    """An utterance of an observed flow stage: its state, and all that went in and came out."""

    state: Any
    tokens: list[int]
    mel: Array | None = None


class ObservedFlowStage:
    """Stands before a flow stage and notes its calls."""

    def __init__(self, stage: FlowStage, calls: Calls) -> None:
        self._stage, self._calls = stage, calls

    def init_state(self, inputs: FlowInput) -> FlowCalls:
        """See `FlowStage`."""
        return FlowCalls(self._stage.init_state(inputs), [])

    def step(self, chunk: TokenChunk, state: FlowCalls) -> tuple[FloatArray, FlowCalls]:
        """See `FlowStage`."""
        mel, state.state = self._stage.step(chunk, state.state)
        first = 0 if state.mel is None else len(state.mel)
        state.tokens += chunk.tokens
        state.mel = mel if state.mel is None else np.concatenate([state.mel, mel])
        self._calls.flow.append(
            {
                "token": np.array([state.tokens]),
                "mel": state.mel.T[None],
                "first": first,
                "streaming": chunk.chunk_masks,
                "finalize": chunk.finalize,
            }
        )
        return mel, state


@dataclass
class VocoderCalls:
    """An utterance of an observed vocoder stage: states that see our own mel and the recorded one, and the mel."""

    state: Any
    recorded: Any
    mel: Array
    samples: Array


class ObservedVocoderStage:
    """Stands before a vocoder stage and notes its calls.

    Args:
        stage: is observed.
        calls: takes the notes.
        source: gives the source signal [time] of a mel [frames, n_mels] and of whether it is whole.
    """

    def __init__(self, stage: VocoderStage, calls: Calls, source: Callable[[Array, bool], Array]) -> None:
        self._stage, self._calls, self._source = stage, calls, source

    def init_state(self) -> VocoderCalls:
        """See `VocoderStage`."""
        nothing = np.zeros(0, np.float32)
        return VocoderCalls(self._stage.init_state(), self._stage.init_state(), nothing, nothing)

    def step(self, chunk: MelChunk, state: VocoderCalls) -> tuple[FloatArray, VocoderCalls]:
        """See `VocoderStage`."""
        own, state.state = self._stage.step(chunk, state.state)
        first = len(state.mel)
        state.mel = np.concatenate([state.mel, chunk.mel]) if first else chunk.mel
        recorded = self._calls.recorded_mel(state.mel.T[None])[0].T
        samples, state.recorded = self._stage.step(MelChunk(recorded[first:], chunk.finalize), state.recorded)
        state.samples = np.concatenate([state.samples, samples])
        self._calls.hift.append(
            {
                "mel": state.mel.T[None],
                "source": self._source(recorded, chunk.finalize)[None, None],
                "samples": state.samples[None],
                "finalize": chunk.finalize,
            }
        )
        return own, state


class ObservedChunkFlow:
    """Stands before the network of a flow of overlapping chunks and notes its calls, each with the noise it began with.

    It also draws that noise, since the record drew fresh noise for every call: `seed` for the first, `seed` + 1 for
    the second; its frames have `mel_dim` channels.
    """

    def __init__(self, flow: ChunkFlow, calls: Calls, seed: int, mel_dim: int) -> None:
        self._network, self._calls, self._seed, self._mel_dim = flow, calls, seed, mel_dim

    def voice(self, inputs: FlowInput) -> Any:
        """See `ChunkFlow`."""
        return self._network.voice(inputs)

    def noise(self, step: int, prompt_frames: int, first: int, frames: int) -> FloatArray:
        """See `ChunkNoise`."""
        generator = torch.Generator().manual_seed(self._seed + step)
        drawn: FloatArray = torch.randn(1, self._mel_dim, prompt_frames + frames, generator=generator)[0].numpy().T
        return drawn

    def sample(
        self, voice: Any, tokens: Sequence[int], noise: FloatArray, cache: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """See `ChunkFlow`."""
        mel, after = self._network.sample(voice, tokens, noise, cache)
        start = noise.copy()
        if cache is not None:
            start[: len(cache)] = cache[:, :, 0]
        self._calls.flow.append(
            {"token": np.array([list(tokens)]), "mel": mel.T[None].copy(), "noise": start.T[None], "first": 0}
        )
        return mel, after


class ObservedNetworks:
    """Stands before the networks of a vocoder whose chunks overlap and notes its calls.

    The networks get the recorded mel and the recorded source where ours agree with them: both are rows of their own.
    """

    def __init__(self, networks: VocoderNetworks, calls: Calls) -> None:
        self._networks, self._calls = networks, calls

    def predict_f0(self, mel: FloatArray) -> FloatArray:
        """See `VocoderNetworks`."""
        return self._networks.predict_f0(self._recorded(mel))

    def excite(self, f0: FloatArray, phases: FloatArray, noise: FloatArray) -> FloatArray:
        """See `VocoderNetworks`."""
        return self._networks.excite(f0, phases, noise)

    def decode(self, mel: FloatArray, source: FloatArray) -> FloatArray:
        """See `VocoderNetworks`."""
        recorded: FloatArray = np.ascontiguousarray(self._calls.recorded_source(source[None, None])[0, 0])
        samples = self._networks.decode(self._recorded(mel), recorded)
        self._calls.hift.append(
            {"mel": mel.T[None].copy(), "source": source[None, None].copy(), "samples": samples[None].copy()}
        )
        return samples

    def _recorded(self, mel: FloatArray) -> FloatArray:
        recorded: FloatArray = self._calls.recorded_mel(mel.T[None])[0].T
        return np.ascontiguousarray(recorded)


class ForcedLLM:
    """A language model that can say one sequence only."""

    def __init__(self, tokens: Sequence[int], end: int, outputs: int) -> None:
        self._sequence, self._outputs = [*tokens, end], outputs
        self.inputs: list[LLMInput] = []

    def init_state(self, inputs: LLMInput) -> int:
        self.inputs.append(inputs)
        return 0

    def step(self, token: int | None, state: int) -> tuple[FloatArray, int]:
        scores = np.full(self._outputs, -np.inf, np.float32)
        scores[self._sequence[state]] = 0.0
        return scores, state + 1

    def release(self, state: int) -> None:
        """Nothing is held."""

    def text_stream(self, inputs: LLMInput, sampler: Any, limit: int | None = None) -> TextStream:
        """Not for what is checked here: raises `ConfigError`."""
        raise ConfigError("a forced language model reads whole texts only; give it the text at once")
