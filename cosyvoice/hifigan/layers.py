"""Building blocks of the vocoder: one-sided 1-D convolutions, the Snake activation, the residual block.

In the causal vocoder every convolution looks to one side only, so it can run on a growing utterance and repeat
exactly what it said before. The side is an argument ("both" is the symmetric padding of the other generations),
and a convolution that looks ahead can be told that its input already contains the frames ahead.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

Side = Literal["left", "right", "both"]


class SidedConv1d(nn.Conv1d):
    """Convolution of stride 1 whose zero padding keeps the length and lies on one side.

    `left` sees the past only, `right` the future only, `both` is symmetric.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1, side: Side = "left"
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, dilation=dilation)
        self.side = side
        self.context = dilation * (kernel_size - 1)

    def forward(self, x: Tensor, pad: bool = True) -> Tensor:
        """Map `x` [batch, channels, time]; without `pad` the outermost `context` steps are context only."""
        if not pad or self.context == 0:
            return super().forward(x)
        left = {"left": self.context, "right": 0, "both": self.context // 2}[self.side]
        return super().forward(F.pad(x, (left, self.context - left)))


class CausalUpsample(nn.Conv1d):
    """Nearest-neighbour upsampling by `rate`, then a convolution that sees the past only.

    It takes the place of the transposed convolution of the non-causal generations.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, rate: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [batch, in_channels, time] to [batch, out_channels, time * rate]."""
        x = x.repeat_interleave(self.rate, dim=2)
        return super().forward(F.pad(x, (self.kernel_size[0] - 1, 0)))


class CausalDownsample(nn.Conv1d):
    """Strided convolution without look-ahead; a `rate` of 1 is a plain pointwise convolution."""

    def __init__(self, in_channels: int, out_channels: int, rate: int) -> None:
        super().__init__(in_channels, out_channels, 2 * rate if rate > 1 else 1, stride=rate)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [batch, in_channels, time] to [batch, out_channels, time // rate]."""
        return super().forward(F.pad(x, (self.rate - 1, 0)))


class Snake(nn.Module):
    """x + sin²(alpha x) / alpha with one learned alpha a channel (Ziyin et al. 2020, equation 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [batch, channels, time]; the type of `x` is kept, which matters under bf16 autocast."""
        alpha = self.alpha[:, None]
        # The small constant is the released implementation's guard against alpha = 0.
        inverse = (1.0 / (alpha + 1e-9)).to(x.dtype)
        sine = torch.sin(x * alpha.to(x.dtype))
        return torch.addcmul(x, sine, sine * inverse)


class ResBlock(nn.Module):
    """Residual block of HiFi-GAN with Snake: for each dilation x += conv(snake(dilated_conv(snake(x))))."""

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...], side: Side = "left") -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            weight_norm(SidedConv1d(channels, channels, kernel_size, dilation, side)) for dilation in dilations
        )
        self.convs2 = nn.ModuleList(
            weight_norm(SidedConv1d(channels, channels, kernel_size, 1, side)) for _ in dilations
        )
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [batch, channels, time] to the same shape."""
        for snake1, conv1, snake2, conv2 in zip(
            self.activations1, self.convs1, self.activations2, self.convs2, strict=True
        ):
            x = x + conv2(snake2(conv1(snake1(x))))
        return x


def remove_weight_norm(module: nn.Module) -> None:
    """Replace every weight-normed weight inside `module` by its plain value.

    Inference then spares the normalisation on every call. The state dict changes its names, so this is for
    models that are only run.
    """
    for child in module.modules():
        if parametrize.is_parametrized(child, "weight"):
            parametrize.remove_parametrizations(child, "weight")
