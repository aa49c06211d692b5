"""Faults of a waveform that word errors do not show: cut edges, clipping, long silence, clicks at joins.

All levels are relative to the loudest 20 ms of the utterance, so that a quiet voice is judged like a loud
one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRAME_SECONDS = 0.02
SILENCE_DB = -45.0
"""A frame this far below the loudest one is silence."""
EDGE_SECONDS = 0.01
EDGE_DB = -20.0
"""The first and last 10 ms of speech that was not cut off are at least this far below the loudest frame."""
CLIPPING_LEVEL = 0.999
CLIPPED_SHARE = 1e-4
LONG_SILENCE_SECONDS = 0.8
CLICK_RATIO = 14.0
"""A step in the waveform this many times the usual step around it is a click; voiced speech stays below 10.
"""
JOIN_RATIO = 6.0
"""The same at a named join: glottal pulses, which reach 10, rarely fall there by chance."""
_CLICK_CONTEXT_SECONDS = 0.004
_JOIN_TOLERANCE = 4
_AUDIBLE_STEP = 0.01
_FLOOR = 1e-5


@dataclass(frozen=True)
class Artefacts:
    """Measurements of one utterance."""

    head_db: float
    """Level of the first 10 ms below the loudest frame."""
    tail_db: float
    clipped: float
    """Share of samples at full scale."""
    longest_silence: float
    """Longest silence between the first and the last sound (s)."""
    clicks: int
    """Sudden steps, anywhere or at the joins that were named."""

    @property
    def faults(self) -> list[str]:
        """Names of the measurements beyond their limits."""
        limits = {
            "head": self.head_db > EDGE_DB,
            "tail": self.tail_db > EDGE_DB,
            "clipping": self.clipped > CLIPPED_SHARE,
            "silence": self.longest_silence > LONG_SILENCE_SECONDS,
            "click": self.clicks > 0,
        }
        return [name for name, beyond in limits.items() if beyond]


def frame_levels(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Level of every whole 20 ms frame in dB below the loudest one: [frames]."""
    rms = _frame_rms(samples, sample_rate)
    return 20 * np.log10(rms / rms.max())


def sounding_seconds(samples: np.ndarray, sample_rate: int) -> float:
    """Time from the first to the last frame that is not silent: the length of the speech without its edges
    (s).
    """
    sounding = np.flatnonzero(frame_levels(samples, sample_rate) > SILENCE_DB)
    return float(sounding[-1] + 1 - sounding[0]) * FRAME_SECONDS


def measure_artefacts(samples: np.ndarray, sample_rate: int, joins: list[int] | None = None) -> Artefacts:
    """Measure mono `samples` [time], at least one sample.

    Args:
        samples: the waveform.
        sample_rate: Hz.
        joins: sample positions where pieces were joined: steps are sought only there; None seeks them
        everywhere.
    """
    loudest = float(_frame_rms(samples, sample_rate).max())
    silent = frame_levels(samples, sample_rate) <= SILENCE_DB
    edge = max(1, int(EDGE_SECONDS * sample_rate))
    steps = _clicks(samples, sample_rate, CLICK_RATIO if joins is None else JOIN_RATIO)
    if joins is not None:
        near = np.abs(steps[:, None] - np.asarray(joins, np.int64)[None]) <= _JOIN_TOLERANCE
        steps = steps[near.any(axis=1)]
    return Artefacts(
        head_db=_decibel(samples[:edge], loudest),
        tail_db=_decibel(samples[-edge:], loudest),
        clipped=float(np.mean(np.abs(samples) >= CLIPPING_LEVEL)),
        longest_silence=_longest_run(silent) * FRAME_SECONDS,
        clicks=len(steps),
    )


def _frame_rms(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Root mean square of every whole frame; one frame where the audio is shorter: [frames]."""
    size = min(len(samples), int(FRAME_SECONDS * sample_rate))
    return _rms(samples[: len(samples) // size * size].astype(np.float64).reshape(-1, size))


def _rms(frames: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(frames).mean(axis=1)) + _FLOOR


def _decibel(samples: np.ndarray, loudest: float) -> float:
    return float(20 * np.log10(_rms(samples.astype(np.float64)[None])[0] / loudest))


def _longest_run(silent: np.ndarray) -> int:
    """Longest run of silent frames that has sound on both sides."""
    sounding = np.flatnonzero(~silent)
    return int((np.diff(sounding) - 1).max()) if len(sounding) > 1 else 0


def _clicks(samples: np.ndarray, sample_rate: int, ratio: float) -> np.ndarray:
    """Positions of steps that stand out of their surroundings: [clicks].

    A step is the second difference, in which smooth speech is small; it is compared with the root mean
    square of the second differences 4 ms to either side, the three samples that the step itself fills left
    out.
    """
    second = np.abs(np.diff(samples.astype(np.float64), n=2))
    context = max(8, int(_CLICK_CONTEXT_SECONDS * sample_rate))
    if len(second) < 2 * context:
        return np.zeros(0, np.int64)
    kernel = np.ones(2 * context + 1)
    kernel[context - 1 : context + 2] = 0
    around = np.sqrt(np.convolve(np.square(second), kernel, mode="same") / kernel.sum())
    peaks = np.flatnonzero((second > _AUDIBLE_STEP) & (second > ratio * (around + 1e-4)))
    # Neighbouring positions are one step.
    return peaks[np.diff(peaks, prepend=-10) > 3] + 1
