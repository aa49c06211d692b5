"""Log-mel spectrograms in NumPy: the one that flow and vocoder share, and Whisper's for the speech tokenizer.

An extractor is an object that holds its window and filterbank, so features of two configurations in one
process can never share a basis. Layout is [frames, n_mels], float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from cosyvoice.errors import AudioError

# Slaney's mel scale: linear below 1000 Hz (3 mels per 200 Hz), logarithmic above (27 mels per factor 6.4).
_LINEAR_STEP = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_STEP
_LOG_STEP = np.log(6.4) / 27.0

_MAGNITUDE_FLOOR = 1e-9
_LOG_FLOOR = 1e-5
# Frames transformed at once.
_BLOCK = 32

WHISPER_SAMPLE_RATE = 16000
_WHISPER_N_FFT = 400
_WHISPER_HOP = 160


Projection = Callable[[np.ndarray], np.ndarray]


class MelParameters(Protocol):
    """What a log-mel needs to know; `MelConfig` has these fields."""

    @property
    def sample_rate(self) -> int: ...
    @property
    def n_fft(self) -> int: ...
    @property
    def hop_size(self) -> int: ...
    @property
    def win_size(self) -> int: ...
    @property
    def n_mels(self) -> int: ...
    @property
    def fmin(self) -> float: ...
    @property
    def fmax(self) -> float | None: ...


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _LINEAR_STEP
    return float(_BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    above = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _BREAK_MEL) - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_STEP, above)


def mel_filterbank(
    sample_rate: int, n_fft: int, n_mels: int, fmin: float = 0.0, fmax: float | None = None
) -> np.ndarray:
    """Triangular filters of area 1 on Slaney's mel scale: [n_mels, n_fft // 2 + 1], float32.

    `fmin` and `fmax` in Hz; `fmax` None is half the sample rate.
    """
    fmax = sample_rate / 2 if fmax is None else fmax
    edges = _mel_to_hz(np.linspace(_hz_to_mel(fmin), _hz_to_mel(fmax), n_mels + 2))
    bins = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    distance = bins[None, :] - edges[:, None]
    width = np.diff(edges)[:, None]
    rising = distance[:-2] / width[:-1]
    falling = -distance[2:] / width[1:]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    return (filters * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def periodic_hann(length: int) -> np.ndarray:
    """Hann window of period `length` (the symmetric window of `length + 1` without its last sample)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


def _mel_power(samples: np.ndarray, pad: int, window: np.ndarray, hop: int, project: Projection) -> np.ndarray:
    """`project` maps the power |X|² [frames, bins] of reflect-padded `samples` [time] to [frames, n_mels].

    A few frames at a time: the buffers then stay in the processor's cache, whatever the length of the audio.
    """
    if samples.ndim != 1:
        raise AudioError(f"features need mono samples [time], got shape {samples.shape}; average the channels")
    if len(samples) <= pad or len(samples) + 2 * pad < len(window):
        need = max(pad + 1, len(window) - 2 * pad)
        raise AudioError(f"{len(samples)} samples are too few for one feature frame; give at least {need}")
    # NumPy transforms double precision faster than single, and it is the more exact.
    samples = samples.astype(np.float64, copy=False)
    padded = np.concatenate([samples[pad:0:-1], samples, samples[-2 : -pad - 2 : -1]]) if pad else samples
    frames = np.lib.stride_tricks.sliding_window_view(padded, len(window))[::hop]
    blocks = []
    for start in range(0, len(frames), _BLOCK):
        spectrum = np.fft.rfft(frames[start : start + _BLOCK] * window, axis=1)
        blocks.append(project(np.square(spectrum.real) + np.square(spectrum.imag)))
    return np.concatenate(blocks)


class LogMel:
    """Log-mel of flow and vocoder: log(max(M sqrt(re² + im² + 1e-9), 1e-5)) with Slaney filters M.

    The signal is padded by reflection with (n_fft - hop) / 2 on both sides, so `time` samples give
    floor(time / hop) frames where n_fft - hop is even.
    """

    def __init__(self, parameters: MelParameters) -> None:
        self.parameters = parameters
        window = periodic_hann(parameters.win_size)
        left = (parameters.n_fft - parameters.win_size) // 2
        # A window shorter than the transform sits in its middle.
        self._window = np.pad(window, (left, parameters.n_fft - parameters.win_size - left))
        filters = mel_filterbank(
            parameters.sample_rate, parameters.n_fft, parameters.n_mels, parameters.fmin, parameters.fmax
        )
        self._filters = np.ascontiguousarray(filters.T)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Features [frames, n_mels] of mono `samples` [time] at the configured rate.

        Raises:
            AudioError: the samples are not mono, or too few for the padding.
        """
        parameters = self.parameters
        pad = (parameters.n_fft - parameters.hop_size) // 2
        mel = _mel_power(samples, pad, self._window, parameters.hop_size, self._project)
        return np.log(np.maximum(mel, _LOG_FLOOR))

    def _project(self, power: np.ndarray) -> np.ndarray:
        return np.sqrt(power + _MAGNITUDE_FLOOR).astype(np.float32) @ self._filters


class WhisperLogMel:
    """Whisper's log-mel at 16 kHz (window 400, hop 160): the input of the speech tokenizer.

    log10 of the mel power, floored at 1e-10 and at 8 below the maximum of the utterance, then (x + 4) / 4.
    The last frame of the centred transform is dropped: `time` samples give floor(time / 160) frames.
    """

    def __init__(self, n_mels: int = 128) -> None:
        self._window = periodic_hann(_WHISPER_N_FFT)
        self._filters = np.ascontiguousarray(mel_filterbank(WHISPER_SAMPLE_RATE, _WHISPER_N_FFT, n_mels).T)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Features [frames, n_mels] of mono `samples` [time] at 16 kHz.

        Raises:
            AudioError: the samples are not mono, or too few for the padding.
        """
        mel = _mel_power(samples, _WHISPER_N_FFT // 2, self._window, _WHISPER_HOP, self._project)[:-1]
        log_mel = np.log10(np.maximum(mel, 1e-10))
        if log_mel.size:
            log_mel = np.maximum(log_mel, log_mel.max() - 8.0)
        return (log_mel + 4.0) / 4.0

    def _project(self, power: np.ndarray) -> np.ndarray:
        return power.astype(np.float32) @ self._filters
