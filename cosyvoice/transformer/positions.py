"""Sinusoids of relative positions, as ESPnet's rel-pos encoding has them (Dai et al. 2019, Transformer-XL, appendix B).

They are not added to the input: each attention layer projects them and scores queries against them. Nothing is
stored; the table is as long as the sequences at hand.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BASE = 10000.0


def sinusoids(positions: Tensor, channels: int) -> Tensor:
    """[positions, channels] in float32: sine and cosine of position * BASE^(-2i / channels) in turn."""
    exponents = torch.arange(0, channels, 2, dtype=torch.float32, device=positions.device)
    angles = positions.float()[:, None] * torch.exp(exponents * -(math.log(BASE) / channels))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def relative_positions(time: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Sinusoids [2 time - 1, channels] of the distances time-1 .. -(time-1), query minus key."""
    return sinusoids(torch.arange(time - 1, -time, -1, device=device), channels)
