"""The fixed start noise of the causal flow models.

A stream is recomputed from its start for every chunk, so its ODE must always leave from the same point. The
released models fix that point once for all: the first draw of a generator seeded with 0, cut to the length
needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

RELEASED_NOISE_FRAMES = 15000
"""Frames of the released noise: 300 s at 50 frames a second."""


def released_start_noise(channels: int = 80, frames: int = RELEASED_NOISE_FRAMES) -> Tensor:
    """Standard normal [1, channels, frames] on the CPU, bit equal to the noise that the released models use.

    Only the released shape (80, 15000) has the released values: the draws fill the array row by row.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(1, channels, frames, generator=generator, device="cpu")
