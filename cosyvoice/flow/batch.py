"""A training batch of the flow, and the random decisions of one step on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cosyvoice.flow.flow_matching import FlowMatchingDraws

STREAMING_PROBABILITY = 0.5
"""Share of the training steps with chunk-causal attention."""
PREFIX_PROBABILITY = 0.5
"""Share of the training utterances that show a prefix of their mel."""
PREFIX_FRACTION = 0.3
"""The longest such prefix, as a fraction of the utterance."""


@dataclass(frozen=True)
class FlowBatch:
    """A padded training batch."""

    token: Tensor
    """Speech tokens [batch, tokens]; padding may hold any id of the vocabulary or a negative one."""
    token_len: Tensor
    """[batch]"""
    mel: Tensor
    """Log-mel [batch, frames, mel_dim]; for a causal flow frames = tokens * token_mel_ratio."""
    mel_len: Tensor
    """[batch]; for a causal flow token_len * token_mel_ratio."""
    speaker_embedding: Tensor
    """[batch, speaker_embedding_dim], of any norm."""

    def to(self, device: torch.device | str) -> FlowBatch:
        """The same batch on another device."""
        return FlowBatch(
            self.token.to(device),
            self.token_len.to(device),
            self.mel.to(device),
            self.mel_len.to(device),
            self.speaker_embedding.to(device),
        )


@dataclass(frozen=True)
class TrainingDraws:
    """All random decisions of one training step."""

    streaming: bool
    """Chunk-causal attention; without effect on a flow that is not causal."""
    prefix: Tensor
    """Frames of the mel that are shown as a prompt, int [batch]."""
    matching: FlowMatchingDraws

    @classmethod
    def sample(cls, batch: FlowBatch, generator: torch.Generator) -> TrainingDraws:
        """Streaming or not, prefixes of 0..30 % of half of the utterances, then the draws of the loss."""
        device = generator.device
        streaming = bool(torch.rand((), generator=generator, device=device) < STREAMING_PROBABILITY)
        shown, fraction = torch.rand((2, len(batch.mel_len)), generator=generator, device=device)
        longest = (PREFIX_FRACTION * batch.mel_len.to(device)).long()
        prefix = (fraction * (longest + 1)).long().clamp(max=longest) * (shown >= PREFIX_PROBABILITY)
        matching = FlowMatchingDraws.sample(batch.mel.transpose(1, 2), generator)
        return cls(streaming, prefix.to(batch.mel.device), matching)
