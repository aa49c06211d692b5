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
# Values of the kernel, and of stretches of input, that are held at once: bounds the memory for any rates.
_KERNEL_VALUES = 1 << 20
_INPUT_VALUES = 1 << 21


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
    cut-off frequency. The output has ceil(time * target / source) samples. Time grows with the length of the
    input and of the output, whatever the rates have in common.

    Raises:
        AudioError: a rate is not positive.
    """
    _check_rates(source_rate, target_rate)
    samples = samples.astype(np.float32, copy=False)
    if source_rate == target_rate or samples.size == 0:
        return samples
    divisor = math.gcd(source_rate, target_rate)
    kernel = _Kernel(source_rate // divisor, target_rate // divisor)
    usual = (2 * kernel.width + kernel.source) * kernel.target <= _KERNEL_VALUES
    return _by_blocks(samples, kernel) if usual else _by_phases(samples, kernel)


def _by_blocks(samples: np.ndarray, kernel: _Kernel) -> np.ndarray:
    """One product of matrices, for rates with a large common divisor. Most of the matrix is zero."""
    source, target, width = kernel.source, kernel.target, kernel.width
    taps = np.arange(-width, width + source)
    matrix = kernel(taps[:, None], np.arange(target)[None])
    padded = np.pad(samples, (width, width + source))
    frames = np.lib.stride_tricks.sliding_window_view(padded, len(taps))[::source]
    output = np.empty((len(frames), target), np.float32)
    rows = max(_INPUT_VALUES // len(taps), 1)
    for start in range(0, len(frames), rows):
        np.matmul(np.ascontiguousarray(frames[start : start + rows]), matrix, out=output[start : start + rows])
    return output.reshape(-1)[: kernel.length(len(samples))]


def _by_phases(samples: np.ndarray, kernel: _Kernel) -> np.ndarray:
    """Some phases at a time, and of each only the taps that the window leaves, for rates with little in common."""
    length, source, target = kernel.length(len(samples)), kernel.source, kernel.target
    blocks = np.arange(math.ceil(length / target))[:, None, None] * source
    reach = np.arange(-kernel.width, kernel.width + 2)
    output = np.empty((len(blocks), min(target, length)), np.float32)
    count = max(_INPUT_VALUES // (len(blocks) * len(reach)), 1)
    for start in range(0, output.shape[1], count):
        phases = np.arange(start, min(start + count, output.shape[1]))
        taps = (phases * source // target)[:, None] + reach
        index = blocks + taps
        inside = (index >= 0) & (index < len(samples))
        values = np.where(inside, samples.take(index, mode="clip"), np.float32(0))
        output[:, phases] = np.einsum("bpt,pt->bp", values, kernel(taps, phases[:, None]))
    return output.reshape(-1)[:length]


class _Kernel:
    """The filter from blocks of `source` to blocks of `target` samples."""

    def __init__(self, source: int, target: int) -> None:
        self.source, self.target = source, target
        self._cutoff = min(source, target) * _ROLLOFF
        self.width = math.ceil(_LOWPASS_WIDTH * source / self._cutoff)
        """Input samples on each side that an output sample depends on."""

    def __call__(self, taps: np.ndarray, phases: np.ndarray) -> np.ndarray:
        """Values for `taps` (input samples from the begin of the block) and `phases` (output samples from there)."""
        # The released implementation rounds the phases, and only them, to single precision.
        rounded = (-phases.astype(np.float32) / np.float32(self.target)).astype(np.float64)
        t = np.clip((taps / self.source + rounded) * self._cutoff, -_LOWPASS_WIDTH, _LOWPASS_WIDTH)
        window = np.cos(t * np.pi / _LOWPASS_WIDTH / 2) ** 2
        return (np.sinc(t) * window * self._cutoff / self.source).astype(np.float32)

    def length(self, samples: int) -> int:
        """Output samples of `samples` input samples."""
        return math.ceil(self.target * samples / self.source)


def _check_rates(source_rate: int, target_rate: int) -> None:
    if source_rate <= 0 or target_rate <= 0:
        raise AudioError(f"cannot resample from {source_rate} Hz to {target_rate} Hz; rates must be positive")
