"""Change of sample rate: soxr for everyday use, and the released implementation's sinc for parity.

Both are linear-phase low-pass filters; they differ by far less than one can hear, yet enough to change a
speech token.
"""

from __future__ import annotations

import math

import numpy as np
import soxr

from cosyvoice.errors import AudioError

_LOWPASS_WIDTH = 6
_ROLLOFF = 0.99
# Output frames computed at once by the sinc resampler: bounds its memory whatever the length of the audio.
_BLOCK = 1 << 15


def resample(samples: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Resample [time] from `source_rate` to `target_rate` (Hz) with soxr's high quality; float32.

    Raises:
        AudioError: a rate is not positive.
    """
    _check_rates(source_rate, target_rate)
    if source_rate == target_rate:
        return samples.astype(np.float32, copy=False)
    return soxr.resample(samples.astype(np.float32, copy=False), source_rate, target_rate, quality="HQ")


def sinc_resample(samples: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Resample [time] with the windowed sinc of the released implementation (width 6, rolloff 0.99); float32.

    With the rates reduced to coprime numbers, every block of `source` input samples gives `target` output
    samples, each from its own phase of the kernel h(t) = sinc(t) cos²(πt/12), |t| <= 6, t in periods of the
    cut-off frequency. The output has ceil(time * target / source) samples.

    Raises:
        AudioError: a rate is not positive.
    """
    _check_rates(source_rate, target_rate)
    samples = samples.astype(np.float32, copy=False)
    if source_rate == target_rate or samples.size == 0:
        return samples
    divisor = math.gcd(source_rate, target_rate)
    source, target = source_rate // divisor, target_rate // divisor
    kernel, width = _sinc_kernel(source, target)
    padded = np.pad(samples, (width, width + source))
    frames = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[0])[::source]
    output = np.empty((len(frames), target), np.float32)
    for start in range(0, len(frames), _BLOCK):
        block = np.ascontiguousarray(frames[start : start + _BLOCK])
        np.matmul(block, kernel, out=output[start : start + _BLOCK])
    return output.reshape(-1)[: math.ceil(target * len(samples) / source)]


def _sinc_kernel(source: int, target: int) -> tuple[np.ndarray, int]:
    """Kernel [taps, target], one column per output phase, and the samples of padding on the left."""
    cutoff = min(source, target) * _ROLLOFF
    width = math.ceil(_LOWPASS_WIDTH * source / cutoff)
    taps = np.arange(-width, width + source, dtype=np.float64) / source
    # The released implementation rounds the phases, and only them, to single precision.
    phases = (-np.arange(target, dtype=np.float32) / np.float32(target)).astype(np.float64)
    t = np.clip((taps[:, None] + phases[None, :]) * cutoff, -_LOWPASS_WIDTH, _LOWPASS_WIDTH)
    window = np.cos(t * np.pi / _LOWPASS_WIDTH / 2) ** 2
    return (np.sinc(t) * window * cutoff / source).astype(np.float32), width


def _check_rates(source_rate: int, target_rate: int) -> None:
    if source_rate <= 0 or target_rate <= 0:
        raise AudioError(f"cannot resample from {source_rate} Hz to {target_rate} Hz; rates must be positive")
