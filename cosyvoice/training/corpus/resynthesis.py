"""WORLD resynthesis: one recorded voice becomes another speaker by scaling F0 and warping the spectral envelope.

WORLD (Morise et al., 2016) separates speech into F0, spectral envelope and aperiodicity. Aperiodicity is computed on
every second frame only: it is two fifths of the cost of the whole and varies slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyworld

FRAME_PERIOD = 5.0
"""ms"""
UNVOICED = 0.0


@dataclass(frozen=True)
class Warp:
    """How a speaker differs from the base voice: factors of F0, of formant frequencies and of speaking rate."""

    f0: float = 1.0
    envelope: float = 1.0
    rate: float = 1.0

    @property
    def identity(self) -> bool:
        return self.f0 == self.envelope == self.rate == 1.0


@dataclass(frozen=True)
class Track:
    """F0 in Hz (0: unvoiced) at frame times `arange(len) * period` seconds."""

    f0: np.ndarray
    period: float

    def at(self, times: np.ndarray) -> np.ndarray:
        """F0 at `times` (s): linear between voiced frames, unvoiced where the nearest frame is unvoiced."""
        grid = np.arange(len(self.f0)) * self.period
        nearest = np.clip(np.rint(times / self.period).astype(int), 0, len(self.f0) - 1)
        voiced = self.f0 > 0
        if not voiced.any():
            return np.zeros(len(times), np.float32)
        smooth = np.interp(times, grid[voiced], self.f0[voiced])
        return np.where(voiced[nearest], smooth, UNVOICED).astype(np.float32)


def analyse_f0(samples: np.ndarray, sample_rate: int) -> Track:
    """F0 by DIO, refined by StoneMask."""
    x = samples.astype(np.float64)
    f0, times = pyworld.dio(x, sample_rate, frame_period=FRAME_PERIOD)
    return Track(pyworld.stonemask(x, f0, times, sample_rate), FRAME_PERIOD / 1000)


def resynthesise(samples: np.ndarray, sample_rate: int, warp: Warp) -> tuple[np.ndarray, Track]:
    """Speak again as another speaker. Returns float32 samples and the F0 they were made with."""
    track = analyse_f0(samples, sample_rate)
    if warp.identity:
        return samples, track
    x = samples.astype(np.float64)
    times = np.arange(len(track.f0)) * track.period
    envelope = pyworld.cheaptrick(x, track.f0, times, sample_rate)
    half = pyworld.d4c(x, np.ascontiguousarray(track.f0[::2]), np.ascontiguousarray(times[::2]), sample_rate)
    aperiodicity = np.repeat(half, 2, axis=0)[: len(times)]
    bins = envelope.shape[1]
    position = np.minimum(np.arange(bins) / warp.envelope, bins - 1)
    low = np.minimum(position.astype(int), bins - 2)
    weight = position - low
    log_envelope = np.log(envelope)
    warped = np.exp(log_envelope[:, low] * (1 - weight) + log_envelope[:, low + 1] * weight)
    f0 = track.f0 * warp.f0
    period = FRAME_PERIOD / warp.rate
    y = pyworld.synthesize(f0, np.ascontiguousarray(warped), np.ascontiguousarray(aperiodicity), sample_rate, period)
    return y.astype(np.float32), Track(f0, period / 1000)
