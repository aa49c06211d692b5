"""What enters the DiT: the flow time, the four channel-wise inputs of a frame, and a convolutional position.

The convolutional position embedding looks to the left only, over two convolutions of 31 frames, which is what
keeps the estimator usable in a stream.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.errors import ConfigError

TIME_FREQUENCIES = 256
"""Width of the sinusoidal code of the flow time."""
POSITION_KERNEL = 31
"""Frames that a convolution of the position embedding sees: the present one and 30 before it."""


def sinusoidal_time(t: Tensor, width: int = TIME_FREQUENCIES, scale: float = 1000.0) -> Tensor:
    """Code of flow times `t` [batch] in 0..1 -> [batch, width]: all sines, then all cosines."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=t.device, dtype=t.dtype) * (-math.log(10000) / (half - 1)))
    angle = scale * t.unsqueeze(1) * frequency.unsqueeze(0)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class TimeEmbedding(nn.Module):
    """Flow times [batch] -> [batch, dim]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(TIME_FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        return self.time_mlp(sinusoidal_time(t))


class CausalConvPositionEmbedding(nn.Module):
    """Two causal grouped convolutions with Mish, [batch, time, dim] -> the same shape."""

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        if dim % groups:
            raise ConfigError(f"dit.dim is {dim}, which is no multiple of its {groups} groups; choose one that is")
        self.conv1 = nn.Sequential(nn.Conv1d(dim, dim, POSITION_KERNEL, groups=groups), nn.Mish())
        self.conv2 = nn.Sequential(nn.Conv1d(dim, dim, POSITION_KERNEL, groups=groups), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for conv in (self.conv1, self.conv2):
            x = conv(F.pad(x, (POSITION_KERNEL - 1, 0)))
        return x.transpose(1, 2)


class InputEmbedding(nn.Module):
    """Noisy mel, prompt mel, encoder output and speaker of each frame -> [batch, time, dim]."""

    def __init__(self, in_channels: int, dim: int, groups: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, dim)
        self.conv_pos_embed = CausalConvPositionEmbedding(dim, groups)

    def forward(self, x: Tensor, cond: Tensor, mu: Tensor, spks: Tensor) -> Tensor:
        """`x`, `cond`, `mu` are [batch, time, channels], `spks` [batch, channels] is repeated over time."""
        speaker = spks.unsqueeze(1).expand(-1, x.shape[1], -1)
        h = self.proj(torch.cat([x, cond, mu, speaker], dim=-1))
        return self.conv_pos_embed(h) + h
