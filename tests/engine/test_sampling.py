"""Repetition-aware sampling: candidate sets, the fallback, and draws that follow the probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cosyvoice.config.model import SamplingConfig
from cosyvoice.engine.sampling import (
    Draw,
    FloatArray,
    Multinomial,
    RASSampler,
    Sampling,
    count_in_window,
    is_repeated,
    nucleus,
    numpy_multinomial,
    ras_draw,
    softmax,
)
from cosyvoice.errors import ConfigError, GenerationError


def scripted(indices: Sequence[int], seen: list[FloatArray]) -> Multinomial:
    """A draw that returns the given indices and keeps the weights it was shown."""
    remaining = iter(indices)

    def draw(weights: FloatArray) -> int:
        seen.append(weights)
        return next(remaining)

    return draw


def log(*probabilities: float) -> FloatArray:
    return np.log(np.array(probabilities, dtype=np.float32))


def test_nucleus_takes_ids_until_top_p_is_reached() -> None:
    probabilities = np.array([0.1, 0.4, 0.2, 0.3], dtype=np.float32)
    assert nucleus(probabilities, 0.65, 10).ids.tolist() == [1, 3]
    assert nucleus(probabilities, 0.75, 10).ids.tolist() == [1, 3, 2]


def test_nucleus_is_bounded_by_top_k_and_never_empty() -> None:
    probabilities = np.array([0.1, 0.4, 0.2, 0.3], dtype=np.float32)
    assert nucleus(probabilities, 1.0, 2).ids.tolist() == [1, 3]
    assert nucleus(probabilities, 1e-6, 25).ids.tolist() == [1]


def test_nucleus_orders_equal_probabilities_by_id() -> None:
    assert nucleus(np.full(6, 1 / 6, dtype=np.float32), 1.0, 4).ids.tolist() == [0, 1, 2, 3]


def test_nucleus_is_that_of_all_ids_in_order() -> None:
    """Ties lie across the border of `top_k`, and there may be fewer ids than that."""
    rng = np.random.default_rng(0)
    for size, top_k in ((745, 25), (745, 5), (6761, 25), (20, 25), (25, 25), (26, 25), (1, 1)):
        for levels in (1, 4, 1000):
            probabilities = rng.integers(0, levels, size).astype(np.float32) + np.float32(0.5)
            probabilities /= probabilities.sum()
            whole = np.argsort(-probabilities, kind="stable")[:top_k]
            ids, kept = nucleus(probabilities, 1.0, top_k)
            np.testing.assert_array_equal(ids, whole[: len(ids)])
            np.testing.assert_array_equal(kept, probabilities[ids])
            assert len(ids) == len(whole) or kept.sum() > 0.999


def test_nucleus_keeps_raw_probabilities() -> None:
    candidates = nucleus(np.array([0.5, 0.25, 0.25], dtype=np.float32), 0.6, 25)
    assert candidates.probabilities.tolist() == [0.5, 0.25]


def test_softmax_of_blocked_scores() -> None:
    probabilities = softmax(np.array([0.0, -np.inf, 0.0], dtype=np.float32))
    assert probabilities.tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize("scores", [[-np.inf, -np.inf], [0.0, np.nan]])
def test_unusable_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(GenerationError, match="no usable score"):
        softmax(np.array(scores, dtype=np.float32))


def test_window_counts_only_the_last_ids() -> None:
    assert count_in_window(7, [7, 7, 1, 7, 2], 3) == 1
    assert count_in_window(7, [], 3) == 0


def test_repetition_threshold() -> None:
    config = SamplingConfig(win_size=4, tau_r=0.5)
    assert not is_repeated(3, [3, 1, 1, 1], config)
    assert is_repeated(3, [3, 1, 3, 1], config)
    assert not is_repeated(3, [3, 3, 1, 1, 1, 1], config)
    assert not is_repeated(3, [3, 3, 3, 3], SamplingConfig(win_size=4, tau_r=1.1))


def test_draw_without_repetition() -> None:
    seen: list[FloatArray] = []
    config = SamplingConfig(top_p=0.9, top_k=2, win_size=10, tau_r=0.1)
    drawn = ras_draw(log(0.2, 0.5, 0.3), [0], config, scripted([1], seen))
    assert drawn == Draw(2, False)
    np.testing.assert_allclose(seen[0], [0.5, 0.3], rtol=1e-6)


def test_repetition_falls_back_to_all_other_ids() -> None:
    seen: list[FloatArray] = []
    config = SamplingConfig(top_p=0.5, top_k=1, win_size=10, tau_r=0.1)
    scores = log(0.2, 0.5, 0.3)
    drawn = ras_draw(scores, [1], config, scripted([0, 0], seen))
    assert drawn == Draw(0, True)
    np.testing.assert_allclose(seen[1], [0.4, 0.0, 0.6], rtol=1e-6)
    np.testing.assert_array_equal(scores, log(0.2, 0.5, 0.3))  # the caller's scores are left alone


def test_numpy_draws_follow_the_weights_and_the_seed() -> None:
    weights = np.array([0.0, 0.3, 0.1, 0.0], dtype=np.float32)  # not normalised
    draw = numpy_multinomial(np.random.default_rng(0))
    ids = [draw(weights) for _ in range(4000)]
    assert set(ids) == {1, 2}
    assert np.mean(np.array(ids) == 1) == pytest.approx(0.75, abs=0.03)
    again = numpy_multinomial(np.random.default_rng(0))
    assert [again(weights) for _ in range(50)] == ids[:50]


def test_numpy_draw_at_the_very_end_has_weight() -> None:
    class Last:
        def random(self) -> float:
            return 1.0

    draw = numpy_multinomial(Last())  # type: ignore[arg-type]
    assert draw(np.array([0.5, 0.5, 0.0], dtype=np.float32)) == 1


def test_sampler_binds_settings_and_randomness() -> None:
    config = SamplingConfig(top_p=0.8, top_k=3, win_size=0, tau_r=2.0)
    scores = log(0.4, 0.3, 0.2, 0.1)
    first, second = (RASSampler(config, numpy_multinomial(np.random.default_rng(3))) for _ in range(2))
    assert [first(scores, []) for _ in range(20)] == [second(scores, []) for _ in range(20)]


def test_departures_change_only_what_they_name() -> None:
    config = SamplingConfig(top_k=7, top_p=0.5, win_size=3)
    multinomial = numpy_multinomial(np.random.default_rng(0))
    assert Sampling().sampler(config, multinomial).config == config
    changed = Sampling(top_k=2).sampler(config, multinomial).config
    assert changed == config.model_copy(update={"top_k": 2}) and config.top_k == 7
    assert Sampling(top_p=1.0).sampler(config, multinomial).config.top_p == 1.0


def test_temperature_flattens_and_sharpens() -> None:
    config, scores = SamplingConfig(top_k=4, top_p=1.0, tau_r=2.0), log(0.4, 0.3, 0.2, 0.1)
    shares = {}
    for temperature in (0.0, 0.5, 1.0, 2.0):
        sampler = Sampling(temperature=temperature).sampler(config, numpy_multinomial(np.random.default_rng(0)))
        shares[temperature] = np.mean([sampler(scores, []) == 0 for _ in range(2000)])
    assert shares[0.0] == 1.0
    assert shares[0.5] == pytest.approx(0.16 / 0.3, abs=0.04)
    assert shares[1.0] == pytest.approx(0.4, abs=0.04)
    assert shares[2.0] == pytest.approx(0.4**0.5 / sum(p**0.5 for p in (0.4, 0.3, 0.2, 0.1)), abs=0.04)


def test_the_coldest_temperature_still_avoids_repetitions_and_blocked_ids() -> None:
    scores = np.append(log(0.4, 0.3), np.float32(-np.inf))
    sampler = Sampling(temperature=0).sampler(SamplingConfig(), numpy_multinomial(np.random.default_rng(0)))
    assert sampler(scores, [0]) == 1
    with pytest.raises(GenerationError, match="no usable score"):
        sampler(np.full(3, -np.inf, np.float32), [])


@pytest.mark.parametrize(
    "options", [{"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"temperature": -1.0}, {"temperature": float("nan")}]
)
def test_sampling_out_of_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Sampling(**options)


@pytest.mark.parametrize("top_p", [5e-324, 1e-50, 1e-30])
def test_however_small_the_nucleus_one_id_is_in_it(top_p: float) -> None:
    candidates = nucleus(np.array([0.2, 0.7, 0.1], np.float32), top_p, 25)
    assert candidates.ids.tolist() == [1]
