"""Look-ahead over the next few speech tokens, the only non-causal part of the causal flow encoders.

The first convolution reads the present row and `lookahead` future ones, the second is causal, and the result
is added to the input. In a stream the future rows are passed as `context`; at the end of an utterance zeros
stand in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PreLookahead(nn.Module):
    """Residual pair of convolutions: `in_channels` -> `channels` -> `in_channels`."""

    def __init__(self, in_channels: int, channels: int, lookahead: int) -> None:
        super().__init__()
        self.lookahead = lookahead
        self.conv1 = nn.Conv1d(in_channels, channels, kernel_size=lookahead + 1)
        self.conv2 = nn.Conv1d(channels, in_channels, kernel_size=3)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """[batch, time, channels] -> the same shape.

        `context` [batch, lookahead, channels] holds the rows that follow `x`. They are not part of the
        output.
        """
        residual = x
        x = x.transpose(1, 2)
        x = F.pad(x, (0, self.lookahead)) if context is None else torch.cat([x, context.transpose(1, 2)], dim=2)
        x = F.leaky_relu(self.conv1(x))
        x = self.conv2(F.pad(x, (2, 0)))
        return x.transpose(1, 2) + residual
