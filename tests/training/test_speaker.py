import numpy as np
import pytest

from cosyvoice.training.speaker import equal_error_rate


def test_separable_scores_have_no_error():
    assert equal_error_rate(np.array([0.8, 0.9]), np.array([0.1, 0.2, 0.3])) == 0.0


def test_swapped_scores_are_all_errors():
    assert equal_error_rate(np.array([0.1, 0.2]), np.array([0.8, 0.9])) == pytest.approx(1.0)


def test_scores_of_one_distribution_err_half_of_the_time():
    rng = np.random.default_rng(0)
    assert equal_error_rate(rng.normal(size=2000), rng.normal(size=3000)) == pytest.approx(0.5, abs=0.02)


def test_normal_scores_err_as_theory_says():
    rng = np.random.default_rng(0)
    # Means two deviations apart: the threshold is one deviation from both, Phi(-1) = 0.1587.
    rate = equal_error_rate(rng.normal(2, 1, 20000), rng.normal(0, 1, 20000))
    assert rate == pytest.approx(0.1587, abs=0.006)


def test_one_overlapping_pair():
    assert equal_error_rate(np.array([0.4, 0.8, 0.9, 1.0]), np.array([0.1, 0.2, 0.3, 0.5])) == pytest.approx(0.25)
