"""From the rate of speech tokens to that of mel frames, where the one is no multiple of the other.

Rows are interpolated linearly, then smoothed by convolutions. Prompt and new rows are stretched apart from each other,
since the length of the prompt's mel is given. The first and the last rows of a long chunk are stretched apart from its
middle, always to the same number of frames: these are what two streamed chunks have in common, and must agree.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 3


class InterpolateRegulator(nn.Module):
    """[batch, rows, channels] -> [batch, frames, channels].

    Args:
        channels: of rows and frames.
        layers: convolutions with norm and activation before the last one.
        edge_rows: rows at either end of a chunk that are stretched on their own.
        edge_frames: the frames that they give.
    """

    def __init__(self, channels: int, layers: int, edge_rows: int, edge_frames: int) -> None:
        super().__init__()
        self.edge_rows, self.edge_frames = edge_rows, edge_frames
        self.model = nn.Sequential()
        for _ in range(layers):
            self.model.append(nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2))
            self.model.append(nn.GroupNorm(1, channels))
            self.model.append(nn.Mish())
        self.model.append(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """A training batch, all of it stretched to the frames of `valid` bool [batch, frames]; zero where that is
        false."""
        frames = self._smooth(_stretch(x, valid.shape[1]))
        return frames * valid.unsqueeze(-1)

    def inference(self, prompt: Tensor, x: Tensor, prompt_frames: int, frames: int) -> Tensor:
        """Frames of the prompt, then those of the chunk `x`, as many as is said of each.

        `prompt` may have no rows; `frames` is at least 2 `edge_frames` where `x` has more than 2 `edge_rows`.
        """
        edge = self.edge_rows
        if x.shape[1] > 2 * edge:
            head, middle, tail = x[:, :edge], x[:, edge:-edge], x[:, -edge:]
            parts = [_stretch(head, self.edge_frames), _stretch(middle, frames - 2 * self.edge_frames),
                     _stretch(tail, self.edge_frames)]  # fmt: skip
        else:
            parts = [_stretch(x, frames)]
        if prompt.shape[1]:
            parts.insert(0, _stretch(prompt, prompt_frames))
        return self._smooth(torch.cat(parts, dim=1))

    def _smooth(self, x: Tensor) -> Tensor:
        return self.model(x.transpose(1, 2)).transpose(1, 2)


def _stretch(x: Tensor, frames: int) -> Tensor:
    return F.interpolate(x.transpose(1, 2), size=frames, mode="linear").transpose(1, 2)
