"""Speed without pitch."""

from __future__ import annotations

import numpy as np
import pytest

from cosyvoice.audio.time_stretch import time_stretch

RATE = 16000


def pitch(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * RATE / len(samples))


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.0, 1.3, 2.0])
def test_length_changes_and_pitch_stays(speed: float) -> None:
    tone = np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE).astype(np.float32)
    out = time_stretch(tone, RATE, speed)
    assert len(out) == round(RATE / speed)
    middle = out[len(out) // 4 : -len(out) // 4]
    assert pitch(middle) == pytest.approx(220, abs=4)
    assert np.abs(middle).max() == pytest.approx(1, abs=0.1) and np.sqrt(np.mean(middle**2)) == pytest.approx(
        0.707, abs=0.05
    )


def test_a_burst_lies_where_the_speed_puts_it() -> None:
    samples = np.zeros(RATE, np.float32)
    samples[8000:8400] = 1.0
    for speed in (0.5, 2.0):
        centre = np.average(np.arange(round(RATE / speed)), weights=time_stretch(samples, RATE, speed))
        assert centre == pytest.approx(8200 / speed, abs=700)


def test_speeds_that_do_not_exist() -> None:
    assert len(time_stretch(np.zeros(0), RATE, 2.0)) == 0
    with pytest.raises(ValueError, match="above 0"):
        time_stretch(np.zeros(9), RATE, 0.0)
