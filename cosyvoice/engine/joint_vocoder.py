"""The stage of a vocoder that sees both sides of every frame, over any implementation of its networks.

Such a vocoder cannot continue a signal. Each chunk is computed on its own and begins with the last mel frames of
the one before, whose samples were withheld; there the two are cross-faded. They agree in that overlap only if
they hear the same source, so its past is carried along, and how that is done is the difference between the two
settings of `compat`:

- "released" is the released implementation: the samples of the source in the overlap are put into the next chunk,
  behind them all phases start anew, and the two halves of a Hamming window sum to 1.08, which makes every overlap
  0.7 dB louder;
- "corrected" carries F0, phases and noise on instead, so the source goes through the seam without a jump, and
  cross-fades with weights that sum to one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import HiFTConfig
from cosyvoice.engine.compat import Compat, check_compat
from cosyvoice.engine.cross_fade import cross_fade
from cosyvoice.engine.mel_chunk import check_any_frame, new_mel
from cosyvoice.engine.stages import FloatArray, MelChunk
from cosyvoice.errors import GenerationError


class SourceDraws(Protocol):
    """Random numbers of the source of one utterance, in the order of its chunks."""

    def phases(self) -> FloatArray:
        """Initial phases [channels] of the harmonics in radians; that of the fundamental is 0."""
        ...

    def normal(self, length: int) -> FloatArray:
        """Standard normal [length, channels]."""
        ...


class GaussianDraws:
    """The same numbers for every utterance with the same `seed`, whatever else the process draws."""

    def __init__(self, channels: int, seed: int = 0) -> None:
        self._channels = channels
        self._generator = np.random.default_rng(seed)

    def phases(self) -> FloatArray:
        """See `SourceDraws`; uniform in [-pi, pi)."""
        phases = self._generator.uniform(-math.pi, math.pi, self._channels).astype(np.float32)
        phases[0] = 0.0
        return phases

    def normal(self, length: int) -> FloatArray:
        """See `SourceDraws`."""
        return self._generator.standard_normal((length, self._channels), dtype=np.float32)


class VocoderNetworks(Protocol):
    """What an implementation computes for the stage; it remembers nothing and is safe from many threads."""

    def predict_f0(self, mel: FloatArray) -> FloatArray:
        """F0 [frames] in Hz of `mel` [frames, n_mels]."""
        ...

    def excite(self, f0: FloatArray, phases: FloatArray, noise: FloatArray) -> FloatArray:
        """The source [frames * hop] of `f0` [frames], `phases` [channels] at its start and `noise` [samples, channels].

        The result is the caller's own.
        """
        ...

    def decode(self, mel: FloatArray, source: FloatArray) -> FloatArray:
        """Samples [frames * hop] of `mel` [frames, n_mels] and `source` [frames * hop]; the caller's own."""
        ...


@dataclass
class JointVocoderState:
    """One utterance."""

    draws: SourceDraws
    mel: FloatArray
    """The overlap's frames [frames, n_mels], and behind them those that no chunk has taken yet."""
    overlap: int = 0
    """Frames of `mel` that the last chunk has taken already."""
    held: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Samples of the overlap as the last chunk gave them."""
    source: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    """The source in the overlap ("released")."""
    f0: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    """F0 of the overlap ("corrected")."""
    noise: FloatArray | None = None
    """Noise in the overlap ("corrected")."""
    phases: FloatArray | None = None
    """Of the harmonics where `mel` begins, in radians ("corrected"); None before the first chunk."""
    finished: bool = False


class JointVocoderStage:
    """`VocoderStage` on `networks`.

    Args:
        networks: of one implementation.
        config: of the vocoder; its `joint_frames` are the overlap.
        compat: see the module's description.
        draws: makes the random numbers of an utterance; by default `GaussianDraws`, so that the same mel in the same
            chunks always gives the same samples.
    """

    def __init__(
        self,
        networks: VocoderNetworks,
        config: HiFTConfig,
        compat: Compat = "corrected",
        draws: Callable[[], SourceDraws] | None = None,
    ) -> None:
        check_compat(compat)
        self.networks = networks
        self._config = config
        self._hop = math.prod(config.upsample_rates) * config.istft_hop
        self._compat = compat
        channels = config.nb_harmonics + 1
        self._draws = draws or (lambda: GaussianDraws(channels))
        self._numbers = np.arange(1, channels + 1)
        self._rise, self._fall = cross_fade(config.joint_frames * self._hop, compat)

    def init_state(self) -> JointVocoderState:
        """See `VocoderStage`."""
        return JointVocoderState(self._draws(), np.zeros((0, self._config.in_channels), np.float32))

    def step(self, chunk: MelChunk, state: JointVocoderState) -> tuple[FloatArray, JointVocoderState]:
        """See `VocoderStage`. An utterance holds back `joint_frames` until it ends, and a chunk shorter than those.

        Raises `GenerationError` for a mel of another shape, for an utterance that ends without any frame or has ended
        before, and where the samples are not finite.
        """
        self._append(chunk, state)
        new = len(state.mel) - state.overlap
        joint = self._config.joint_frames
        if chunk.finalize and new == 0:
            return state.held, state
        if not chunk.finalize and new < (max(joint, 1) if state.overlap else joint + 1):
            return np.zeros(0, np.float32), state
        excite = self._continued_source if self._compat == "corrected" else self._patched_source
        samples = self.networks.decode(state.mel, excite(state))
        if not np.isfinite(samples).all():
            raise GenerationError(
                "the vocoder gave samples that are not finite; convert the model with a higher precision (fp32)"
            )
        faded = len(state.held)
        samples[:faded] = samples[:faded] * self._rise[:faded] + state.held * self._fall[:faded]
        if chunk.finalize:
            return samples, state
        passed = len(state.mel) - joint
        given = passed * self._hop
        state.held = samples[given:].copy()
        state.mel, state.overlap = state.mel[passed:].copy(), joint
        return samples[:given], state

    def _append(self, chunk: MelChunk, state: JointVocoderState) -> None:
        """Take the mel of `chunk`."""
        mel = new_mel(chunk, self._config, state.finished)
        state.mel = np.concatenate([state.mel, mel])
        state.finished = chunk.finalize
        if chunk.finalize:
            check_any_frame(len(state.mel))

    def _patched_source(self, state: JointVocoderState) -> FloatArray:
        """The source of a chunk that begins anew, behind that of the overlap."""
        f0 = self.networks.predict_f0(state.mel)
        phases = self._initial_phases(state)
        source = self.networks.excite(f0, phases, state.draws.normal(len(f0) * self._hop))
        source[: len(state.source)] = state.source
        state.source = source[self._overlap_of(len(f0)) :].copy()
        return source

    def _continued_source(self, state: JointVocoderState) -> FloatArray:
        """The source of a chunk that goes on with the phases, the F0 and the noise of the overlap."""
        f0 = self.networks.predict_f0(state.mel)
        f0[: len(state.f0)] = state.f0
        if state.phases is None or state.noise is None:
            state.phases, state.noise = self._initial_phases(state), state.draws.normal(0)
        new = state.draws.normal(len(f0) * self._hop - len(state.noise))
        noise = np.concatenate([state.noise, new])
        source = self.networks.excite(f0, state.phases, noise)
        passed = max(len(f0) - self._config.joint_frames, 0)
        state.phases = self._moved(state.phases, f0[:passed])
        state.f0, state.noise = f0[passed:].copy(), noise[passed * self._hop :].copy()
        return source

    def _overlap_of(self, frames: int) -> int:
        """The sample where the overlap with the next chunk begins."""
        return max(frames - self._config.joint_frames, 0) * self._hop

    def _initial_phases(self, state: JointVocoderState) -> FloatArray:
        """Random ones where the source is a true sine; the others begin at 0, whatever is drawn for them."""
        phases = state.draws.phases()
        return phases if self._config.source_phase == "sample" else np.zeros_like(phases)

    def _moved(self, phases: FloatArray, f0: FloatArray) -> FloatArray:
        """Phases after the frames of `f0`."""
        cycles = float(np.sum(f0, dtype=np.float64)) * self._hop / self._config.sampling_rate
        turned: NDArray[np.float64] = phases + 2 * math.pi * np.remainder(cycles * self._numbers, 1.0)
        return np.remainder(turned, 2 * math.pi).astype(np.float32)
