from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cosyvoice.errors import ConfigError
from cosyvoice.flow.solver import solve, time_grid


def growth(x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = x + t, whose solution from x(0) = 1 is 2 exp(t) - t - 1."""
    return x + t


EXACT = 2 * math.e - 2


def error(solver: str, steps: int) -> float:
    grid = time_grid(steps, "linear", dtype=torch.float64)
    return abs(float(solve(growth, torch.ones((), dtype=torch.float64), grid, solver)) - EXACT)


def test_grids_run_from_0_to_1() -> None:
    assert time_grid(4, "linear").tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    cosine = time_grid(10)
    assert cosine[0] == 0 and cosine[-1] == pytest.approx(1)
    assert cosine[5] == pytest.approx(1 - math.cos(math.pi / 4))
    steps = cosine.diff()
    assert (steps.diff() > 0).all(), "steps grow away from the noise"


def test_orders_of_convergence() -> None:
    assert error("euler", 16) / error("euler", 32) == pytest.approx(2, rel=0.15)
    assert error("rk4", 16) / error("rk4", 32) == pytest.approx(16, rel=0.25)


def test_rk4_beats_euler_at_equal_cost() -> None:
    assert error("rk4", 4) < 0.02 * error("euler", 16)


def test_euler_evaluates_at_the_left_of_each_step() -> None:
    fed: list[float] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        fed.append(float(t))
        return torch.ones_like(x)

    end = solve(velocity, torch.zeros(2), time_grid(5))
    assert fed == pytest.approx(time_grid(5)[:-1].tolist(), abs=1e-6)
    assert end.tolist() == pytest.approx([1, 1], abs=1e-6)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 step"):
        time_grid(0)
    with pytest.raises(ConfigError, match="t_scheduler is 'quadratic'"):
        time_grid(2, "quadratic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="use one of 'euler', 'rk4'"):
        solve(growth, torch.ones(1), time_grid(2), "heun")  # type: ignore[arg-type]
