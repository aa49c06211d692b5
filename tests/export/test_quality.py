import numpy as np
import pytest

from cosyvoice.export.quality import divergence, relative_error, signal_to_noise


def test_divergence_is_that_of_kullback_and_leibler() -> None:
    p, q = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.25, 0.75], [0.9, 0.1]])
    expected = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)) / 2
    assert divergence(np.log(p), np.log(q)) == pytest.approx(expected)
    assert divergence(np.log(p), np.log(p)) == 0


def test_the_error_is_relative_to_what_varies() -> None:
    mel = np.array([[-6.0, 1.0], [-4.0, 1.0]])
    assert relative_error(mel, mel) == 0
    assert relative_error(mel, mel + np.array([0.1, 0])) == pytest.approx(0.1)


def test_signal_to_noise() -> None:
    samples = np.ones(100)
    assert signal_to_noise(samples, samples * 0.9) == pytest.approx(20)
    assert signal_to_noise(samples, samples) == 200
