from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cosyvoice.audio.resample import resample, sinc_resample
from cosyvoice.errors import AudioError

BOTH = pytest.mark.parametrize("function", [resample, sinc_resample])
Resampler = Callable[[np.ndarray, int, int], np.ndarray]


@BOTH
@pytest.mark.parametrize(("source", "target"), [(24000, 16000), (16000, 24000), (44100, 16000), (24000, 22050)])
def test_a_tone_stays_a_tone(function: Resampler, source: int, target: int) -> None:
    wave = np.sin(2 * np.pi * 1000 * np.arange(source) / source).astype(np.float32)
    output = function(wave, source, target)
    expected = np.sin(2 * np.pi * 1000 * np.arange(target) / target)
    assert output.dtype == np.float32 and len(output) == target
    np.testing.assert_allclose(output[200:-200], expected[200:-200], atol=5e-3)


@BOTH
def test_what_the_target_cannot_hold_is_removed(function: Resampler) -> None:
    wave = np.sin(2 * np.pi * 11000 * np.arange(24000) / 24000).astype(np.float32)
    assert np.abs(function(wave, 24000, 16000)[200:-200]).max() < 0.02


def test_long_audio_does_not_depend_on_the_block_length() -> None:
    wave = np.random.default_rng(0).standard_normal(150_000).astype(np.float32)
    whole = sinc_resample(wave, 24000, 16000)
    # Every 3 input samples give 2 output samples, so this tail starts on the same phase.
    tail = sinc_resample(wave[90_000:], 24000, 16000)
    np.testing.assert_allclose(whole[60_100:], tail[100:], atol=1e-5)


def test_length_is_rounded_up() -> None:
    assert len(sinc_resample(np.ones(10, np.float32), 24000, 16000)) == 7
    assert sinc_resample(np.zeros(0, np.float32), 24000, 16000).size == 0


@BOTH
def test_equal_rates_change_nothing_and_bad_rates_are_refused(function: Resampler) -> None:
    wave = np.ones(5, np.float32)
    assert function(wave, 16000, 16000) is wave
    with pytest.raises(AudioError, match="must be positive"):
        function(wave, 0, 16000)
