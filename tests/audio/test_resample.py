from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from cosyvoice.audio import resample as resampling
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


@pytest.mark.parametrize(("source", "target"), [(23999, 16000), (16001, 24000), (47999, 22050)])
def test_rates_without_a_common_divisor_cost_what_others_do(source: int, target: int) -> None:
    time = np.arange(2 * source) / source
    wave = np.sin(2 * np.pi * 440 * time) + 0.3 * np.sin(2 * np.pi * 3000 * time)
    output, peak = _measured_memory(lambda: sinc_resample(wave.astype(np.float32), source, target))
    # The kernel of all phases alone would be gigabytes.
    assert peak < 150e6
    np.testing.assert_allclose(output[200:-200], resample(wave, source, target)[200:-200], atol=2e-3)


@pytest.mark.parametrize(("source", "target"), [(3, 2), (441, 160), (160, 147), (1, 3)])
def test_both_ways_to_resample_agree(source: int, target: int) -> None:
    wave = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    kernel = resampling._Kernel(source, target)
    by_blocks, by_phases = resampling._by_blocks(wave, kernel), resampling._by_phases(wave, kernel)
    assert by_blocks.shape == by_phases.shape == (math.ceil(5000 * target / source),)
    np.testing.assert_allclose(by_phases, by_blocks, atol=2e-6)


def test_a_rate_that_no_recorder_has_is_resampled_within_bounds() -> None:
    output, peak = _measured_memory(lambda: sinc_resample(np.ones(100_000, np.float32), 2_147_483_647, 16_000))
    assert len(output) == 1 and peak < 200e6


def test_usual_rates_keep_the_values_of_the_released_models() -> None:
    wave = np.sin(np.arange(40) ** 1.5).astype(np.float32)
    # Of the kernel as one matrix, which gave the recorded features of the released models.
    expected = [
        0.2476323,
        0.1202582,
        -0.1220730,
        0.2010914,
        -0.4210215,
        0.5099119,
        0.9284387,
        1.0178525,
        0.1882455,
        -0.3849568,
    ]
    np.testing.assert_allclose(sinc_resample(wave, 44100, 16000)[: len(expected)], expected, atol=1e-6)


def _measured_memory(function: Callable[[], np.ndarray]) -> tuple[np.ndarray, int]:
    """What `function` gives, and the bytes of arrays that it held at most."""
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
