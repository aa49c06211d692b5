"""The excitation of the vocoder, continued from chunk to chunk: harmonics of F0, noise, and their spectrum.

`HarmonicMixture` computes it for a whole signal, as the reference does. In `HarmonicSource` the sums that make the
phase are carried on in double precision, as PyTorch carries them within one call, so a chunk gets the very phases
that it has in the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cosyvoice.config.model import HiFTConfig
from cosyvoice.engine.stages import FloatArray
from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.native.noise import NoiseStream, SourceNoise

DoubleArray = NDArray[np.float64]


class HarmonicMixture:
    """The twin of `cosyvoice.hifigan.source.HarmonicSource`, for a signal that is given as a whole."""

    def __init__(self, weights: Mapping[str, NDArray[Any]], config: HiFTConfig) -> None:
        """`weights` are those of the vocoder. Raises `ModelError` if one is missing or has another shape."""
        self._hop = math.prod(config.upsample_rates) * config.istft_hop
        self._config = config
        self._numbers = np.arange(1, config.nb_harmonics + 2, dtype=np.float32)
        weight, bias = "m_source.l_linear.weight", "m_source.l_linear.bias"
        if weight not in weights or bias not in weights or weights[weight].size != len(self._numbers):
            raise ModelError(f"the vocoder's weights lack {weight!r} of this configuration; convert the model again")
        self._mixture = weights[weight].astype(np.float32).reshape(-1)
        self._bias = np.float32(weights[bias].reshape(()))

    def excite(self, f0: FloatArray, phases: FloatArray, noise: FloatArray) -> FloatArray:
        """The signal [frames * hop] in (-1, 1) of `f0` [frames] in Hz.

        `phases` [channels] are those of the harmonics at its start, in radians; `noise` [samples, channels] has unit
        scale.
        """
        if self._config.source_phase == "sample":
            sines, _ = self._moving_harmonics(f0, np.zeros(1), phases)
        else:
            held, _ = self._frame_phases(f0, np.zeros(len(self._numbers)))
            linear = self._config.source_phase == "linear"
            sines = np.sin((_interpolated(held, self._hop) if linear else held[:, None]) + phases) @ self._mixture
        return self._mix(f0, sines, noise)

    def _mix(self, f0: FloatArray, sines: FloatArray, noise: FloatArray) -> FloatArray:
        """The signal of the mixed `sines` [frames, hop or 1] and of `noise` [frames * hop, channels]."""
        config = self._config
        mixed_noise = (noise @ self._mixture).reshape(len(f0), self._hop)
        voiced = (f0 > config.nsf_voiced_threshold)[:, None]
        level = np.where(voiced, np.float32(config.nsf_sigma), np.float32(config.nsf_alpha / 3))
        amplitude = np.where(voiced, np.float32(config.nsf_alpha), np.float32(0))
        return np.tanh(sines * amplitude + mixed_noise * level + self._bias).reshape(-1)

    def _moving_harmonics(
        self, f0: FloatArray, sums: DoubleArray, phases: FloatArray | None = None
    ) -> tuple[FloatArray, DoubleArray]:
        """Mixture of sines [frames, hop] whose phase moves with every sample, and the sum [1] of cycles after them."""
        step = f0.astype(np.float64) / self._config.sampling_rate
        sums = np.cumsum(np.concatenate([sums, step * self._hop]))
        before = sums[1:] - step * self._hop
        within = np.arange(1, self._hop + 1, dtype=np.float64)
        cycles = before[:, None] + step[:, None] * within
        # A whole number of cycles of the fundamental is a whole number of every harmonic, so this order is exact.
        turn = np.remainder(cycles, 1.0).astype(np.float32)[:, :, None] * self._numbers
        angle = turn * np.float32(2 * math.pi)
        return np.asarray(np.sin(angle if phases is None else angle + phases) @ self._mixture), sums[-1:]

    def _frame_phases(self, f0: FloatArray, sums: DoubleArray) -> tuple[FloatArray, DoubleArray]:
        """Phases [frames, channels] in radians, known once a frame, and the sums [channels] of cycles after them.

        The order of the single-precision operations is the released implementation's, because the rounding of
        a long sum is visible in its output.
        """
        rate = np.float32(self._config.sampling_rate)
        step = np.remainder(f0[:, None] * self._numbers / rate, np.float32(1.0))
        sums = np.cumsum(np.concatenate([sums[None], step.astype(np.float64)]), axis=0)
        phase = sums[1:].astype(np.float32) * np.float32(2) * np.float32(math.pi) * np.float32(self._hop)
        return phase, sums[-1]


def _interpolated(phase: FloatArray, hop: int) -> FloatArray:
    """Straight lines [frames, hop, channels] between the middles of frames, from `phase` [frames, channels] there.

    Before the first middle and behind the last the phase stands still.
    """
    position = np.maximum((np.arange(len(phase) * hop, dtype=np.float32) + np.float32(0.5)) / hop - np.float32(0.5), 0)
    lower = position.astype(np.int64)
    upper = np.minimum(lower + 1, len(phase) - 1)
    share = (position - lower).astype(np.float32)[:, None]
    lines: FloatArray = phase[lower] * (1 - share) + phase[upper] * share
    return lines.reshape(len(phase), hop, -1)


@dataclass
class SourceState:
    """Where the phases stand, and the noise of the samples to come."""

    sums: DoubleArray
    """Sum over the frames so far: cycles of each harmonic ("frame") or of the fundamental ("sample")."""
    noise: NoiseStream


class HarmonicSource(HarmonicMixture):
    """The source of a growing signal, with the same noise for every utterance."""

    def __init__(self, weights: Mapping[str, NDArray[Any]], config: HiFTConfig, noise: SourceNoise) -> None:
        """Raises `ModelError` if a weight is missing, `ConfigError` for phases that need to know what follows."""
        super().__init__(weights, config)
        if config.source_phase == "linear":
            raise ConfigError(
                "hift.source_phase is 'linear', which a causal vocoder cannot continue; use 'sample' or 'frame'"
            )
        self._noise = noise

    def init_state(self) -> SourceState:
        """An utterance that begins."""
        sums = 1 if self._config.source_phase == "sample" else len(self._numbers)
        return SourceState(np.zeros(sums), self._noise.stream())

    def step(self, f0: NDArray[np.floating[Any]], state: SourceState) -> FloatArray:
        """The next samples [frames * hop] in (-1, 1) for `f0` [frames] in Hz; `state` is changed."""
        f0 = f0.astype(np.float32)
        if self._config.source_phase == "sample":
            sines, state.sums = self._moving_harmonics(f0, state.sums)
        else:
            phases, state.sums = self._frame_phases(f0, state.sums)
            sines = np.asarray(np.sin(phases) @ self._mixture)[:, None]
        return self._mix(f0, sines, state.noise.take(len(f0) * self._hop))


@dataclass
class SpectrumState:
    """Samples that frames to come still see; None before the first ones."""

    tail: FloatArray | None


class SourceSpectrum:
    """Centred short Fourier transform of a growing signal, which is reflected at both of its ends."""

    def __init__(self, n_fft: int, hop: int) -> None:
        """`n_fft` and `hop` in samples, with a periodic Hann window of `n_fft`."""
        self._n_fft, self._hop = n_fft, hop
        angle = 2 * np.pi * np.outer(np.arange(n_fft), np.arange(n_fft // 2 + 1)) / n_fft
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
        basis = np.concatenate([np.cos(angle), -np.sin(angle)], axis=1) * window[:, None]
        self._basis = basis.astype(np.float32)

    def init_state(self) -> SpectrumState:
        """A signal that begins."""
        return SpectrumState(None)

    def whole(self, samples: FloatArray) -> FloatArray:
        """Real over imaginary parts [frames, n_fft + 2] of a whole signal, one frame more than it has hops."""
        return self.step(samples, self.init_state(), finalize=True)

    def step(self, samples: FloatArray, state: SpectrumState, finalize: bool = False) -> FloatArray:
        """Real over imaginary parts [frames, n_fft + 2] of the frames that `samples` [time] complete.

        Frame k stands at sample k * hop of the signal. The first samples must be more than half of `n_fft`;
        `finalize` says that the signal ends with `samples`. `state` is changed.
        """
        half = self._n_fft // 2
        if state.tail is None:
            if len(samples) == 0:
                return np.zeros((0, self._n_fft + 2), np.float32)
            signal = np.concatenate([samples[half:0:-1], samples])
        else:
            signal = np.concatenate([state.tail, samples])
        if finalize:
            signal = np.concatenate([signal, signal[-2 : -half - 2 : -1]])
        count = max((len(signal) - self._n_fft) // self._hop + 1, 0)
        state.tail = signal[count * self._hop :].copy()
        frames = sliding_window_view(signal, self._n_fft)[: count * self._hop : self._hop] if count else signal[:0]
        return np.ascontiguousarray(frames).reshape(count, self._n_fft) @ self._basis
