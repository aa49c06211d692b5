"""Finite scalar quantisation (FSQ; Mentzer et al., 2023): every channel is rounded to one of a few levels.

There is no codebook to learn and none to collapse: the code is the tuple of levels, read as a number.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FSQ(nn.Module):
    """Quantises `channels` values to `levels` levels each; `levels` is odd, so that zero is a level."""

    powers: Tensor

    def __init__(self, channels: int, levels: int = 3) -> None:
        super().__init__()
        self.steps = (levels - 1) / 2
        self.levels = levels
        self.codebook_size = levels**channels
        self.register_buffer("powers", levels ** torch.arange(channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, channels] -> the same shape with values in -1..1; the gradient passes the rounding."""
        bounded = torch.tanh(x) * self.steps
        return (bounded + (bounded.round() - bounded).detach()) / self.steps

    def indices(self, x: Tensor) -> Tensor:
        """[batch, time, channels] -> token ids [batch, time], 0..codebook_size-1, the first channel counts least."""
        digits = (torch.tanh(x) * self.steps).round() + self.steps
        return (digits.long() * self.powers).sum(-1)

    def codes(self, indices: Tensor) -> Tensor:
        """Token ids [batch, time] -> the values [batch, time, channels] that `forward` gave."""
        digits = indices[..., None].long() // self.powers % self.levels
        return (digits.float() - self.steps) / self.steps
