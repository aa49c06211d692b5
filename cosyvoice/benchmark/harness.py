"""Times that can be compared: contenders take turns round by round, and ratios are formed within a round.

What else a machine does slows down neighbours in time alike, so a ratio of two times of one round says more than
the ratio of two averages, and their spread over the rounds says how far to trust it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from cosyvoice.config.base import StrictModel
from cosyvoice.errors import ConfigError

Clock = Callable[[], float]
"""Seconds since any fixed moment."""
CLOCK: Clock = time.perf_counter
Case = Callable[[], Mapping[str, float]]
"""One run of a contender: the parts that it times, with their seconds."""
Say = Callable[[str], None]
"""Told what is done now."""


class Spread(StrictModel):
    """Least, middle and greatest of some values."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value; raises `ConfigError` where there is none."""
        if not values:
            raise ConfigError("there is nothing to summarise; measure at least one round")
        return cls(min=min(values), median=statistics.median(values), max=max(values))


def interleave(
    cases: Mapping[str, Case], rounds: int, warm_up: int = 1, say: Say | None = None
) -> dict[str, dict[str, list[float]]]:
    """Run the cases of all contenders in turns: A B C, A B C, ...

    Args:
        cases: a case for each contender.
        rounds: how often each is measured.
        warm_up: rounds before that whose times are thrown away.
        say: told which round and whose turn it is.

    Returns the values of every round by part and contender. Raises `ConfigError` for less than one round.
    """
    if rounds < 1:
        raise ConfigError(f"{rounds} rounds measure nothing; use at least 1")
    values: dict[str, dict[str, list[float]]] = {}
    for number in range(-warm_up, rounds):
        # Garbage of one round is not to be collected at the cost of whoever comes first in the next.
        gc.collect()
        for contender, case in cases.items():
            if say is not None:
                say(f"{'warm-up' if number < 0 else f'round {number + 1} of {rounds}'}, {contender}")
            parts = case()
            if number < 0:
                continue
            for part, value in parts.items():
                values.setdefault(part, {}).setdefault(contender, []).append(value)
    return values


def paired_ratios(baseline: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """How many times faster than `baseline` each round of `seconds` was: above 1 is faster."""
    return [before / after for before, after in zip(baseline, seconds, strict=True)]
