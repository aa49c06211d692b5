"""The vocoder on ONNX Runtime: each step computes its own frames and continues everything else.

What it remembers of an utterance has a fixed size: the inputs that each convolution still sees, the phases of
the source, the overlap of the last frames, and the mel frames that are looked at ahead. Long input is computed
in blocks, which keeps the working memory small and in the processor's caches, and where several threads may work,
stretches of it are computed side by side: what a stretch depends on of the frames before it is computed once more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from cosyvoice.config.model import HiFTConfig
from cosyvoice.engine.mel_chunk import check_any_frame, new_mel
from cosyvoice.engine.stages import FloatArray, MelChunk
from cosyvoice.errors import GenerationError, ModelError
from cosyvoice.native.blas import one_blas_thread
from cosyvoice.native.f0_predictor import LOOK_RIGHT, F0Predictor, F0State
from cosyvoice.native.noise import SourceNoise
from cosyvoice.native.overlap_add import OverlapAdd, OverlapState
from cosyvoice.native.runtime import Engine, Runtime, Session, run
from cosyvoice.native.source import HarmonicSource, SourceSpectrum, SourceState, SpectrumState
from cosyvoice.native.vocoder_reach import context_frames, stretches

GRAPH_NAME = "vocoder.onnx"
WEIGHTS_NAME = "hift.safetensors"
SILENT_MEL = math.log(1e-5)
"""Log-mel of silence: the floor of the features."""
BLOCK_FRAMES = 25
"""Mel frames that one run of the graph computes at most."""


@dataclass
class DecoderState:
    """Where the graph stands in an utterance, or in a stretch of one."""

    mel: FloatArray
    """Frames [frames, n_mels] that the first convolution has not passed yet."""
    spectrum: FloatArray
    """Frames [frames, n_fft + 2] of the source's transform that the network has not taken yet."""
    memories: dict[str, FloatArray]
    """Of the convolutions, by the names of the graph's inputs."""
    overlap: OverlapState
    frames: int = 0
    """Mel frames that the first convolution has passed."""


@dataclass
class NativeVocoderState:
    """One utterance."""

    decoder: DecoderState
    f0: F0State
    source: SourceState
    source_spectrum: SpectrumState
    ready: FloatArray
    """Samples that are computed and not given out yet."""
    frames: int = 0
    """Mel frames so far."""
    f0_frames: int = 0
    given: int = 0
    """Samples given out."""
    finished: bool = False


class NativeVocoderStage:
    """The vocoder of V3, equal to the reference within rounding however the mel is cut into chunks."""

    def __init__(
        self, directory: Path, config: HiFTConfig, noise: SourceNoise, runtime: Runtime, engine: Engine | None = None
    ) -> None:
        """Read the graph and the weights of the source from `directory`; `engine` runs the graph, `runtime` by default.

        Raises `ModelError` where a file is missing, damaged or of another configuration.
        """
        directory = Path(directory)
        self._config = config
        self._rate = math.prod(config.upsample_rates)
        self._hop = self._rate * config.istft_hop
        weights = read_source_weights(directory / WEIGHTS_NAME)
        self._f0 = F0Predictor(weights, config)
        self._source = HarmonicSource(weights, config, noise)
        self._spectrum = SourceSpectrum(config.istft_n_fft, config.istft_hop)
        self._context = context_frames(config)
        self._runtime = runtime
        # ONNX Runtime is faster with stretches side by side, each on one thread.
        self._session: Session = (
            runtime.session(directory / GRAPH_NAME, threads=1)
            if engine is None
            else engine.session(directory / GRAPH_NAME)
        )
        self._lanes = runtime.threads if engine is None else 1
        inputs = {value.name: value.shape for value in self._session.get_inputs()}
        if inputs.pop("mel", [0, 0])[1] != config.in_channels or inputs.pop("spectrum", [0, 0])[1] != self._bins:
            raise ModelError(f"{directory / GRAPH_NAME} is of another configuration; convert the model again")
        inputs.pop("first")
        self._memories = {name: tuple(shape) for name, shape in inputs.items()}
        self._outputs = ["samples", *(f"{name}.next" for name in self._memories)]
        self._overlap_add = OverlapAdd(config.istft_n_fft, config.istft_hop)

    @property
    def _bins(self) -> int:
        return self._config.istft_n_fft + 2

    def init_state(self) -> NativeVocoderState:
        """See `VocoderStage`."""
        mel = np.zeros((0, self._config.in_channels), np.float32)
        spectrum = np.zeros((0, self._bins), np.float32)
        return NativeVocoderState(
            decoder=DecoderState(mel, spectrum, self._no_memories(), self._overlap_add.init_state()),
            f0=self._f0.init_state(),
            source=self._source.init_state(),
            source_spectrum=self._spectrum.init_state(),
            ready=np.zeros(0, np.float32),
        )

    def _no_memories(self) -> dict[str, FloatArray]:
        return {name: np.zeros(shape, np.float32) for name, shape in self._memories.items()}

    @one_blas_thread
    def step(self, chunk: MelChunk, state: NativeVocoderState) -> tuple[FloatArray, NativeVocoderState]:
        """See `VocoderStage`. An utterance holds back `LOOK_RIGHT` + `conv_pre_look_right` + 1 frames until it ends.

        Raises `GenerationError` for a mel of another shape, for an utterance that ends without any frame or has
        ended before, and where the samples are not finite.
        """
        self._append(chunk, state)
        self._excite(chunk.finalize, state)
        look = self._config.conv_pre_look_right
        # Behind the end lie zeros, so only a middle has to wait for its context. Of the silence that follows the
        # end, the frame that overlaps the last samples is enough.
        end = min(state.f0_frames, state.frames + 1) if chunk.finalize else state.f0_frames - look
        samples = np.concatenate([state.ready, *self._decode_until(end, chunk.finalize, state)])
        decoder = state.decoder
        decoder.mel, decoder.spectrum = decoder.mel.copy(), decoder.spectrum.copy()
        # `final_silence` lies behind the frames that were asked for.
        held = 0 if chunk.finalize else LOOK_RIGHT + look + 1
        count = max(state.frames - held, 0) * self._hop - state.given
        state.ready = samples[count:].copy()
        state.given += count
        limit = self._config.audio_limit
        return np.clip(samples[:count], -limit, limit), state

    def _append(self, chunk: MelChunk, state: NativeVocoderState) -> None:
        """Take the mel of `chunk`, with what lies behind the end of the utterance."""
        mel = new_mel(chunk, self._config, state.finished)
        state.frames += len(mel)
        parts = [state.decoder.mel, mel]
        if chunk.finalize:
            check_any_frame(state.frames)
            parts.append(np.full((self._config.final_silence, mel.shape[1]), SILENT_MEL, np.float32))
            state.finished = True
        state.decoder.mel = np.concatenate(parts)

    def _excite(self, finalize: bool, state: NativeVocoderState) -> None:
        """The source's transform as far as the mel allows."""
        decoder = state.decoder
        f0 = self._f0.step(decoder.mel[state.f0_frames - decoder.frames :], state.f0, finalize)
        state.f0_frames += len(f0)
        source = self._source.step(f0, state.source)
        new = self._spectrum.step(source, state.source_spectrum, finalize)
        decoder.spectrum = np.concatenate([decoder.spectrum, new])
        if finalize:
            zeros = np.zeros((self._config.conv_pre_look_right, self._config.in_channels), np.float32)
            decoder.mel = np.concatenate([decoder.mel, zeros])

    def _decode_until(self, end: int, finalize: bool, state: NativeVocoderState) -> list[FloatArray]:
        """Samples that the mel frames up to `end` complete, in parts; long stretches of them side by side."""
        begin = state.decoder.frames
        if begin >= end:
            return []
        final = state.f0_frames if finalize else None
        lanes = stretches(begin, end, self._context, self._lanes)
        decoders = [state.decoder, *(self._begun_at(first - self._context, state.decoder) for first, _ in lanes[1:])]
        parts = self._runtime.side_by_side(
            [partial(self._decode, decoder, stop, final) for decoder, (_, stop) in zip(decoders, lanes, strict=True)]
        )
        state.decoder = decoders[-1]
        return [parts[0], *(part[self._context * self._hop :] for part in parts[1:])]

    def _begun_at(self, frame: int, decoder: DecoderState) -> DecoderState:
        """A decoder that starts with a later `frame` than `decoder`; it knows nothing of what lies before."""
        mel = decoder.mel[frame - decoder.frames :]
        taken = decoder.frames * self._rate + int(decoder.frames > 0)
        spectrum = decoder.spectrum[frame * self._rate + 1 - taken :]
        overlap = self._overlap_add.init_state()
        # Its first samples are dropped; this keeps them from being divided by nothing.
        overlap.windows += 1
        return DecoderState(mel, spectrum, self._no_memories(), overlap, frame)

    def _decode(self, decoder: DecoderState, end: int, final: int | None) -> FloatArray:
        """Samples that the mel frames up to `end` complete; `final` is where the utterance ends, if it does."""
        parts = []
        while decoder.frames < end:
            count = min(end - decoder.frames, BLOCK_FRAMES)
            parts.append(self._block(count, decoder.frames + count == final, decoder))
        return np.concatenate(parts)

    def _block(self, count: int, last: bool, decoder: DecoderState) -> FloatArray:
        """Samples that the next `count` mel frames complete."""
        first = int(decoder.frames == 0)
        spectra = count * self._rate + first
        inputs: dict[str, NDArray[Any]] = {
            "mel": np.ascontiguousarray(decoder.mel[: count + self._config.conv_pre_look_right].T)[None],
            "spectrum": np.ascontiguousarray(decoder.spectrum[:spectra].T)[None],
            "first": np.array([first], np.int64),
            **decoder.memories,
        }
        overlapped, *memories = run(self._session, self._outputs, inputs)
        decoder.memories = dict(zip(self._memories, memories, strict=True))
        decoder.mel, decoder.spectrum = decoder.mel[count:], decoder.spectrum[spectra:]
        decoder.frames += count
        samples = self._overlap_add.step(overlapped[0, 0], spectra, bool(first), last, decoder.overlap)
        if not np.isfinite(samples).all():
            raise GenerationError(
                "the vocoder gave samples that are not finite; convert the model with a higher precision (fp32)"
            )
        return samples


def read_source_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The weights that lie outside of the graph. Raises `ModelError` where `path` is no safetensors file."""
    try:
        with safe_open(path, framework="np") as file:
            names = [name for name in file.keys() if name.startswith(("f0_predictor.", "m_source."))]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is no intact safetensors file ({error}); convert the model again") from None
