"""Speaker encoder: a small time-delay network with statistics pooling (x-vector; Snyder et al., 2018), 192 values.

Trained to tell the training speakers apart with an additive angular margin, so that the cosine of two embeddings
measures how alike two voices are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.config.model import SpeakerEncoderConfig

_CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1))
"""Kernel and dilation of the layers: 15 frames (150 ms) in all."""


class SpeakerEncoder(nn.Module):
    """Fbank [batch, frames, n_mels] (mean removed) -> embedding [batch, embedding_dim]."""

    def __init__(self, config: SpeakerEncoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.n_mels] + [config.channels] * (len(_CONTEXTS) - 1) + [2 * config.channels]
        self.convs = nn.ModuleList(
            nn.Conv1d(widths[i], widths[i + 1], kernel, dilation=dilation)
            for i, (kernel, dilation) in enumerate(_CONTEXTS)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:])
        self.output = nn.Linear(2 * widths[-1], config.embedding_dim)

    def forward(self, fbank: Tensor) -> Tensor:
        # The deviation of every bin differs between synthesisers more than between speakers: scale it away.
        x = fbank.transpose(1, 2) / 4.0
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(F.relu(conv(x)))
        deviation = torch.sqrt(x.var(dim=2, unbiased=False) + 1e-5)
        return self.output(torch.cat([x.mean(dim=2), deviation], dim=1))


class AngularMargin(nn.Module):
    """Additive angular margin softmax (Deng et al., 2019), for training only."""

    def __init__(self, embedding_dim: int, speakers: int, scale: float = 30.0, margin: float = 0.2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(speakers, embedding_dim) * 0.05)
        self.scale, self.margin = scale, margin

    def forward(self, embedding: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and the cosines [batch, speakers] without margin."""
        cosine = F.linear(F.normalize(embedding), F.normalize(self.weight)).clamp(-1 + 1e-6, 1 - 1e-6)
        target = F.one_hot(speaker, cosine.shape[1]).bool()
        logits = torch.where(target, torch.cos(torch.acos(cosine) + self.margin), cosine)
        return F.cross_entropy(self.scale * logits, speaker), cosine
