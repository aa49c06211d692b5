"""Kaldi filterbank features of the speaker encoder, in NumPy.

Computed here and not by kaldi-native-fbank because whole utterances at once are several times faster than
the frame-by-frame interface of that library, and training extracts these features for hours of audio.
"""

from __future__ import annotations

import math

import numpy as np

from cosyvoice.errors import AudioError

FBANK_SAMPLE_RATE = 16000
_WINDOW = 400
_SHIFT = 160
_N_FFT = 512
_PREEMPHASIS = 0.97
_LOW_HZ = 20.0
_POVEY_POWER = 0.85
# Frames transformed at once: few enough for the processor's cache.
_BLOCK = 32
_LOG_FLOOR = float(np.finfo(np.float32).eps)


def kaldi_filterbank(n_mels: int) -> np.ndarray:
    """Triangles straight on Kaldi's mel scale 1127 ln(1 + f/700), 20 Hz to 8 kHz: [n_mels, 257], float32.

    Single precision throughout, as in the released implementation: at the feet of the triangles the rounding
    shows in the logarithm. The last bin (8 kHz) is in no filter.
    """
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (_LOW_HZ, FBANK_SAMPLE_RATE / 2))
    edges = np.float32(low) + np.arange(n_mels + 2, dtype=np.float32) * np.float32((high - low) / (n_mels + 1))
    hz = np.arange(_N_FFT // 2, dtype=np.float32) * np.float32(FBANK_SAMPLE_RATE / _N_FFT)
    bins = np.float32(1127.0) * np.log(np.float32(1.0) + hz / np.float32(700.0))
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.pad(np.maximum(np.float32(0.0), np.minimum(rising, falling)), ((0, 0), (0, 1)))


class KaldiFbank:
    """Log filterbank energies as Kaldi computes them: 25 ms Povey window, 10 ms shift, no dither, no padding.

    Samples are in [-1, 1]; the released speaker encoder does not scale them to 16-bit integers.
    """

    def __init__(self, n_mels: int = 80) -> None:
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / (_WINDOW - 1))
        self._window = hann**_POVEY_POWER
        self._filters = np.ascontiguousarray(kaldi_filterbank(n_mels).T)

    def __call__(self, samples: np.ndarray, subtract_mean: bool = True) -> np.ndarray:
        """Features [frames, n_mels] of mono `samples` [time] at 16 kHz; frames = (time - 400) // 160 + 1.

        Args:
            samples: the waveform.
            subtract_mean: remove the mean of every bin over time, as the speaker encoder expects.

        Raises:
            AudioError: the samples are not mono, or fewer than one window (25 ms).
        """
        if samples.ndim != 1:
            raise AudioError(
                f"features need mono samples [time], got shape {samples.shape}; average the channels first"
            )
        if len(samples) < _WINDOW:
            raise AudioError(f"{len(samples)} samples at 16 kHz are too few for the speaker encoder; give at least 400")
        # Double precision up to the energies: low bins are small differences of near equals.
        samples = samples.astype(np.float64, copy=False)
        frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_SHIFT]
        energies = [self._energies(frames[start : start + _BLOCK]) for start in range(0, len(frames), _BLOCK)]
        features = np.log(np.maximum(np.concatenate(energies), np.float32(_LOG_FLOOR)))
        if subtract_mean:
            features = features - features.mean(axis=0, keepdims=True)
        return features

    def _energies(self, frames: np.ndarray) -> np.ndarray:
        """Filterbank energies [frames, n_mels] of raw windows [frames, 400]."""
        frames = frames - frames.mean(axis=1, keepdims=True)
        # The sample before the first is taken to equal the first.
        previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        spectrum = np.fft.rfft((frames - _PREEMPHASIS * previous) * self._window, n=_N_FFT, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        return power.astype(np.float32) @ self._filters
