"""Fixed-step solvers of the flow ODE dx/dt = v(x, t) in NumPy, planned before they run.

Euler evaluates the velocity once a step, the classic Runge-Kutta method (RK4) four times. A plan knows all
evaluations beforehand: what depends on the flow time alone can be computed once for it, and caches can be kept for
each evaluation. Times, sums and rounding are those of the reference in single precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import CFMConfig
from cosyvoice.errors import ConfigError
from cosyvoice.native.options import Arithmetic, EngineName

FloatArray = NDArray[np.float32]
Velocity = Callable[[FloatArray, int], FloatArray]
"""v(x, evaluation) with x of any shape and the number of the evaluation, which stands for its time."""
Solver = Literal["euler", "rk4"]
_EVALUATIONS: dict[str, int] = {"euler": 1, "rk4": 4}


@dataclass(frozen=True)
class FlowOptions:
    """How the flow is sampled, and by what; None takes the value of the model's configuration."""

    n_timesteps: int | None = None
    solver: Solver | None = None
    cfg_rate: float | None = None
    guidance: tuple[float, float] = (0.0, 1.0)
    """Flow times between which the velocity is guided, both ends included: evaluations outside compute the
    conditional row only, which takes half of their time and of their caches."""
    engine: EngineName = "onnxruntime"
    """What runs the estimator; "openvino" for V3 models, where it is installed."""
    arithmetic: Arithmetic | None = None
    """Of OpenVINO; None: single precision, and bfloat16 for quantised weights where the processor multiplies that."""


@dataclass(frozen=True)
class SolverPlan:
    """The steps of a solver and the evaluations in them."""

    solver: Solver
    steps: tuple[np.float32, ...]
    """Length dt of each step."""
    times: tuple[np.float32, ...]
    """Flow time of each evaluation, in the order in which they are made."""
    cfg_rate: float
    guided: tuple[bool, ...]
    """Which evaluations compute the unconditional velocity too."""

    @property
    def rows(self) -> int:
        """Rows of all evaluations together."""
        return sum(2 if guided else 1 for guided in self.guided)

    @classmethod
    def of(cls, config: CFMConfig, options: FlowOptions) -> SolverPlan:
        """The plan for `options`; raises `ConfigError` for values out of range."""
        solver = config.solver if options.solver is None else options.solver
        if solver not in _EVALUATIONS:
            raise ConfigError(f"solver is {solver!r}; use one of {', '.join(map(repr, _EVALUATIONS))}")
        rate = config.inference_cfg_rate if options.cfg_rate is None else options.cfg_rate
        if not rate >= 0:
            raise ConfigError(f"cfg_rate is {rate}; use 0 for no guidance, or a positive number")
        begin, end = options.guidance
        if not 0 <= begin <= end <= 1:
            raise ConfigError(f"guidance is {options.guidance}; give two flow times in order, from 0 to 1")
        count = config.n_timesteps if options.n_timesteps is None else options.n_timesteps
        steps, times = _evaluations(time_grid(count, config.t_scheduler), solver)
        guided = tuple(bool(rate > 0 and begin <= time <= end) for time in times)
        return cls(solver, tuple(steps), tuple(times), float(rate), guided)

    def guide(self, velocity: FloatArray) -> FloatArray:
        """(1 + r) conditional - r unconditional of `velocity` [1 or 2, ...]; one row is as it is."""
        if len(velocity) == 1:
            return velocity
        rate = np.float32(self.cfg_rate)
        return np.float32(1 + self.cfg_rate) * velocity[:1] - rate * velocity[1:]


def time_grid(n_timesteps: int, scheduler: Literal["cosine", "linear"] = "cosine") -> FloatArray:
    """Times [n_timesteps + 1] from 0 to 1. "cosine" is 1 - cos(pi/2 s) with equidistant s: dense near 0.

    Raises `ConfigError` for fewer than one step or an unknown scheduler.
    """
    if n_timesteps < 1:
        raise ConfigError(f"n_timesteps is {n_timesteps}, but the flow needs at least 1 step")
    index = np.arange(n_timesteps + 1, dtype=np.float32)
    width = np.float32(1) / np.float32(n_timesteps)
    # Counted from the nearer end, as PyTorch does: the grid is symmetric in single precision.
    grid = np.where(index < (n_timesteps + 1) // 2, index * width, 1 - width * (n_timesteps - index))
    if scheduler == "cosine":
        return (1 - np.cos(grid * np.float32(0.5) * np.float32(math.pi))).astype(np.float32)
    if scheduler == "linear":
        return grid.astype(np.float32)
    raise ConfigError(f"t_scheduler is {scheduler!r}; use 'cosine' or 'linear'")


def solve(velocity: Velocity, x: FloatArray, plan: SolverPlan) -> FloatArray:
    """Integrate from `x` at time 0 to time 1; the result has the shape of `x`."""
    width = _EVALUATIONS[plan.solver]
    for step, dt in enumerate(plan.steps):
        first = step * width
        x = _euler_step(velocity, x, dt, first) if plan.solver == "euler" else _rk4_step(velocity, x, dt, first)
    return x


def _euler_step(velocity: Velocity, x: FloatArray, dt: np.float32, first: int) -> FloatArray:
    return x + dt * velocity(x, first)


def _rk4_step(velocity: Velocity, x: FloatArray, dt: np.float32, first: int) -> FloatArray:
    half = dt / np.float32(2)
    k1 = velocity(x, first)
    k2 = velocity(x + half * k1, first + 1)
    k3 = velocity(x + half * k2, first + 2)
    k4 = velocity(x + dt * k3, first + 3)
    return x + dt / np.float32(6) * (k1 + 2 * k2 + 2 * k3 + k4)


def _evaluations(grid: FloatArray, solver: str) -> tuple[list[np.float32], list[np.float32]]:
    """Lengths of the steps and times of the evaluations.

    Time is summed up step by step and each step aims at the next grid point from where the sum stands, which
    rounds as the reference does.
    """
    steps, times = [], []
    t = np.float32(grid[0])
    for target in grid[1:]:
        dt = np.float32(target - t)
        half = np.float32(t + dt / np.float32(2))
        times += [t] if solver == "euler" else [t, half, half, np.float32(t + dt)]
        steps.append(dt)
        t = np.float32(t + dt)
    return steps, times
