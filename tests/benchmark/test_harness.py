"""Turns and ratios."""

from __future__ import annotations

import pytest

from cosyvoice.benchmark.harness import Spread, interleave, paired_ratios
from cosyvoice.errors import ConfigError


def test_spread_is_least_middle_and_greatest():
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(min=1.0, median=3.0, max=10.0)
    assert Spread.of([2.0, 4.0]).median == 3.0


def test_spread_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least one round"):
        Spread.of([])


def test_contenders_take_turns_and_the_warm_up_is_not_counted():
    order: list[str] = []

    def case(name, value):
        def run():
            order.append(name)
            return {"part": value + len(order), "other": value}

        return run

    values = interleave({"a": case("a", 0.0), "b": case("b", 100.0)}, rounds=2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert values == {"part": {"a": [3.0, 5.0], "b": [104.0, 106.0]}, "other": {"a": [0.0] * 2, "b": [100.0] * 2}}


def test_progress_names_round_and_contender():
    told: list[str] = []
    interleave({"a": lambda: {"part": 1.0}}, rounds=2, say=told.append)
    assert told == ["warm-up, a", "round 1 of 2, a", "round 2 of 2, a"]


def test_less_than_a_round_is_refused():
    with pytest.raises(ConfigError, match="0 rounds"):
        interleave({}, rounds=0)


def test_ratios_are_formed_within_each_round():
    # Both were slowed down threefold in the second round, which the ratio does not show.
    assert paired_ratios([4.0, 12.0], [2.0, 6.0]) == [2.0, 2.0]


def test_ratios_of_unequal_rounds_are_refused():
    with pytest.raises(ValueError):
        paired_ratios([1.0], [1.0, 2.0])
