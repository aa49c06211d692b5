from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cosyvoice.config.model import CFMConfig
from cosyvoice.errors import ConfigError
from cosyvoice.flow import solver as reference
from cosyvoice.native.solver import FloatArray, FlowOptions, SolverPlan, solve, time_grid


def plan(**options: object) -> SolverPlan:
    return SolverPlan.of(CFMConfig(), FlowOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("scheduler", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [1, 2, 6, 10, 40])
def test_grids_are_those_of_the_reference(scheduler: str, steps: int) -> None:
    grid = time_grid(steps, scheduler)  # type: ignore[arg-type]
    assert grid.dtype == np.float32 and grid[0] == 0
    np.testing.assert_allclose(grid, reference.time_grid(steps, scheduler).numpy(), atol=1.2e-7)  # type: ignore[arg-type]


@pytest.mark.parametrize(("solver", "steps"), [("euler", 10), ("rk4", 3)])
def test_solutions_and_times_are_those_of_the_reference(solver: str, steps: int) -> None:
    x = np.linspace(-2, 2, 7, dtype=np.float32)
    fed: list[float] = []

    def theirs(y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        fed.append(float(t))
        return torch.sin(3 * y) + t

    expected = reference.solve(theirs, torch.from_numpy(x), reference.time_grid(steps), solver)  # type: ignore[arg-type]
    ours = plan(n_timesteps=steps, solver=solver)

    def velocity(y: FloatArray, evaluation: int) -> FloatArray:
        return np.asarray(np.sin(3 * y) + ours.times[evaluation], np.float32)

    assert ours.times == pytest.approx(fed, abs=2e-7)
    np.testing.assert_allclose(solve(velocity, x, ours), expected.numpy(), atol=2e-6)


def test_rk4_converges_with_the_fourth_order() -> None:
    def error(steps: int) -> float:
        ours = plan(n_timesteps=steps, solver="rk4")
        # dx/dt = x + t from x(0) = 1 ends at 2 e - 2.
        end = solve(lambda y, evaluation: y + ours.times[evaluation], np.ones(1, np.float32), ours)
        return abs(float(end[0]) - (2 * math.e - 2))

    assert error(2) / error(4) > 8


def test_guidance_covers_its_span_of_flow_times() -> None:
    assert plan().guided == (True,) * 10
    spans = plan(guidance=(0.1, 0.6))
    assert spans.guided == tuple(0.1 <= float(time) <= 0.6 for time in spans.times)
    assert 0 < sum(spans.guided) < 10
    assert not any(plan(cfg_rate=0.0).guided)


def test_guiding_extrapolates_away_from_the_unconditional_row() -> None:
    rows = np.array([[1.0, 2.0], [0.5, 3.0]], np.float32)
    np.testing.assert_allclose(plan(cfg_rate=0.5).guide(rows), [[1.25, 1.5]])
    np.testing.assert_array_equal(plan().guide(rows[:1]), rows[:1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_timesteps": 0}, "at least 1 step"),
        ({"solver": "heun"}, "solver is 'heun'"),
        ({"cfg_rate": -0.1}, "cfg_rate is -0.1"),
        ({"cfg_rate": float("nan")}, "cfg_rate is nan"),
        ({"guidance": (0.5, 0.2)}, "two flow times in order"),
        ({"guidance": (0.0, 1.5)}, "two flow times in order"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**options)
    with pytest.raises(ConfigError, match="t_scheduler is 'quadratic'"):
        time_grid(2, "quadratic")  # type: ignore[arg-type]
