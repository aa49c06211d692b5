from __future__ import annotations

import numpy as np
import pytest

from cosyvoice.audio.pitch import extract_f0

pytest.importorskip("pyworld", reason="needs the train extra")


def test_a_harmonic_tone_has_its_pitch() -> None:
    time = np.arange(24000) / 24000
    samples = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 10))
    f0 = extract_f0(np.asarray(samples) * 0.1, 24000, 480, 50)
    assert f0.shape == (50,) and f0.dtype == np.float64
    np.testing.assert_allclose(f0[10:40], 150, atol=1)


def test_silence_is_unvoiced() -> None:
    assert not extract_f0(np.zeros(24000), 24000, 480, 50).any()
