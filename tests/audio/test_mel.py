from __future__ import annotations

import numpy as np
import pytest

from cosyvoice.audio.mel import LogMel, WhisperLogMel, mel_filterbank, periodic_hann
from cosyvoice.config.model import MelConfig
from cosyvoice.errors import AudioError


def direct_log_mel(samples: np.ndarray, config: MelConfig) -> np.ndarray:
    """The definition, frame by frame, with a matrix for the transform."""
    pad = (config.n_fft - config.hop_size) // 2
    padded = np.pad(samples.astype(np.float64), pad, mode="reflect")
    bins, times = np.arange(config.n_fft // 2 + 1), np.arange(config.n_fft)
    transform = np.exp(-2j * np.pi * np.outer(bins, times) / config.n_fft)
    filters = mel_filterbank(config.sample_rate, config.n_fft, config.n_mels, config.fmin, config.fmax)
    frames = []
    for start in range(0, len(padded) - config.n_fft + 1, config.hop_size):
        spectrum = transform @ (padded[start : start + config.n_fft] * periodic_hann(config.n_fft))
        frames.append(np.log(np.maximum(filters @ np.sqrt(np.abs(spectrum) ** 2 + 1e-9), 1e-5)))
    return np.array(frames)


def noise(length: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(length)).astype(np.float32)


def test_log_mel_is_its_definition() -> None:
    config = MelConfig(sample_rate=8000, n_fft=256, win_size=256, hop_size=64, n_mels=20)
    mel = LogMel(config)(noise(64 * 50))
    assert mel.shape == (50, 20) and mel.dtype == np.float32
    np.testing.assert_allclose(mel, direct_log_mel(noise(64 * 50), config), atol=1e-5)


def test_frame_count_and_silence_floor() -> None:
    mel = LogMel(MelConfig())(np.zeros(480 * 7 + 100, np.float32))
    assert mel.shape == (7, 80)
    assert mel.min() >= np.log(1e-5) - 1e-5


def test_a_tone_peaks_in_its_filter() -> None:
    config = MelConfig()
    tone = np.sin(2 * np.pi * 440 * np.arange(24000) / 24000)
    filters = mel_filterbank(24000, 1920, 80)
    expected = filters[:, round(440 / 12.5)].argmax()
    assert abs(int(LogMel(config)(tone).mean(axis=0).argmax()) - int(expected)) <= 1


def test_extractors_of_two_configurations_do_not_share_a_basis() -> None:
    wide, narrow = LogMel(MelConfig()), LogMel(MelConfig(fmax=8000))
    assert np.abs(wide(noise(24000)) - narrow(noise(24000))).max() > 0.1


def test_a_window_shorter_than_the_transform_is_centred() -> None:
    config = MelConfig(sample_rate=8000, n_fft=256, win_size=128, hop_size=64, n_mels=20)
    impulse = np.zeros(64 * 20)
    impulse[640] = 1
    energy = LogMel(config)(impulse).mean(axis=1)
    # Frame i is centred on sample 64 i + 32, so the impulse lies midway between frames 9 and 10.
    np.testing.assert_allclose(energy[9], energy[10], atol=1e-4)
    assert energy[8] < energy[9] > energy[12]


def test_filters_have_unit_area() -> None:
    filters = mel_filterbank(24000, 19200, 80)
    np.testing.assert_allclose(filters.sum(axis=1) * 24000 / 19200, 1.0, rtol=0.02)
    assert mel_filterbank(24000, 1920, 80, fmax=8000)[:, 641:].max() == 0


def test_whisper_range_and_length() -> None:
    features = WhisperLogMel()(noise(16000))
    assert features.shape == (100, 128) and features.dtype == np.float32
    assert features.max() - features.min() <= 2.0 + 1e-6


@pytest.mark.parametrize(
    ("samples", "message"),
    [(np.zeros((2, 4000)), "mono"), (np.zeros(0), "too few"), (np.zeros(720), "give at least 721")],
)
def test_unusable_samples(samples: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        LogMel(MelConfig())(samples)
