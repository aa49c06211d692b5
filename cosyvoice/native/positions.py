"""Sinusoids of positions as the graphs with relative positions take them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cosyvoice.engine.stages import FloatArray

BASE = 10000.0


class Sinusoids:
    """Angles position * BASE^(-2i / channels) of the rows of a sequence."""

    def __init__(self, channels: int) -> None:
        exponents = np.arange(0, channels, 2, dtype=np.float32)
        frequency = np.exp(exponents * np.float32(-math.log(BASE) / channels))
        # Single precision would lose digits of the large angles that the graphs take differences of.
        self._frequency: NDArray[np.float64] = frequency.astype(np.float64)

    def __call__(self, first: int, end: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Of the positions first..end - 1: cos and sin [rows, channels / 2], for queries, and -sin and cos in turn
        [rows, channels], for keys."""
        angle = np.arange(first, end, dtype=np.float64)[:, None] * self._frequency
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        return cos, sin, np.stack([-sin, cos], axis=2).reshape(len(cos), -1)
