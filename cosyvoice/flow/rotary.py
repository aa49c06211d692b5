"""Rotary position embedding of the DiT, with the quirk that its weights were trained with.

The released implementation rotates queries and keys before it splits them into heads, and its table is as
wide as one head. So the first head alone knows positions; all the others attend by content only. The rotation
pairs neighbouring channels (0 with 1, 2 with 3, ...), not the two halves of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Angles position * base^(-2i/dim); `inv_freq` [dim / 2] is a buffer of the released checkpoint."""

    inv_freq: Tensor

    def __init__(self, dim: int, base: float = 10000.0) -> None:
        super().__init__()
        self.register_buffer("inv_freq", base ** -(torch.arange(0, dim, 2).float() / dim))

    def forward(self, size: int) -> tuple[Tensor, Tensor]:
        """cos and sin of the angles at positions 0..size-1, each [size, dim / 2]."""
        position = torch.arange(size, device=self.inv_freq.device, dtype=self.inv_freq.dtype)
        angle = torch.outer(position, self.inv_freq)
        return angle.cos(), angle.sin()


def rotate_first_channels(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the leading channels of `x` [batch, time, channels] that the table covers, and pass on the rest.

    `cos` and `sin` are [time, pairs]; channels 2i and 2i+1 with i < pairs form the pairs. Keeps the dtype of
    `x`.
    """
    rotated = 2 * cos.shape[-1]
    even, odd = x[..., 0:rotated:2], x[..., 1:rotated:2]
    pairs = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return torch.cat([pairs.flatten(-2).to(x.dtype), x[..., rotated:]], dim=-1)
