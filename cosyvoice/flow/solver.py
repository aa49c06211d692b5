"""Fixed-step solvers of the flow ODE dx/dt = v(x, t), from noise at t=0 to mel at t=1, and their time grids.

Euler evaluates the velocity once a step, the classic Runge-Kutta method (RK4) four times; for a given number
of evaluations RK4 is the more accurate one as soon as the steps are small enough for the trajectory to be
smooth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from cosyvoice.errors import ConfigError

Velocity = Callable[[Tensor, Tensor], Tensor]
"""v(x, t) with x of any shape and t a tensor without dimensions."""


def time_grid(
    n_timesteps: int,
    scheduler: Literal["cosine", "linear"] = "cosine",
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Times [n_timesteps + 1] from 0 to 1. "cosine" is 1 - cos(pi/2 s) with equidistant s: dense near 0.

    Raises `ConfigError` for fewer than one step or an unknown scheduler.
    """
    if n_timesteps < 1:
        raise ConfigError(f"n_timesteps is {n_timesteps}, but the flow needs at least 1 step")
    grid = torch.linspace(0, 1, n_timesteps + 1, device=device, dtype=dtype)
    if scheduler == "cosine":
        return 1 - torch.cos(grid * 0.5 * math.pi)
    if scheduler == "linear":
        return grid
    raise ConfigError(f"t_scheduler is {scheduler!r}; use 'cosine' or 'linear'")


def euler_step(velocity: Velocity, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
    """One step of the explicit Euler method."""
    return x + dt * velocity(x, t)


def rk4_step(velocity: Velocity, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
    """One step of the classic fourth-order Runge-Kutta method."""
    half = dt / 2
    k1 = velocity(x, t)
    k2 = velocity(x + half * k1, t + half)
    k3 = velocity(x + half * k2, t + half)
    k4 = velocity(x + dt * k3, t + dt)
    return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


_STEPS = {"euler": euler_step, "rk4": rk4_step}


def solve(velocity: Velocity, x: Tensor, grid: Tensor, solver: Literal["euler", "rk4"] = "euler") -> Tensor:
    """Integrate from `x` at grid[0] to grid[-1]; the result has the shape of `x`.

    Time is summed up step by step and each step aims at the next grid point from where the sum stands: this
    rounds as the released implementation does. Raises `ConfigError` for an unknown solver.
    """
    if solver not in _STEPS:
        raise ConfigError(f"solver is {solver!r}; use one of {', '.join(map(repr, _STEPS))}")
    step = _STEPS[solver]
    t = grid[0]
    for target in grid[1:]:
        dt = target - t
        x = step(velocity, x, t, dt)
        t = t + dt
    return x
