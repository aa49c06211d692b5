"""Draws from PyTorch's generator, id for id as the released implementation makes them.

A sampler takes its randomness as a function from weights to an index. This one calls `torch.multinomial`,
which on the CPU divides the weights by exponential variates and takes the largest quotient; the same seed
therefore gives the same ids as the released implementation, without touching the global generator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray


def torch_multinomial(generator: torch.Generator) -> Callable[[NDArray[np.float32]], int]:
    """A function that draws an index in proportion to weights [n], from `generator` (on the CPU)."""

    def draw(weights: NDArray[np.float32]) -> int:
        return int(torch.multinomial(torch.from_numpy(weights), 1, replacement=True, generator=generator))

    return draw
