"""The encoder of the second generation's flow: Conformer layers at the rate of the tokens, then at that of the mel.

Between the two, rows are repeated and smoothed by a causal convolution. With attention in chunks, which are as long in
time on either side, and a look-ahead of a few tokens it can be streamed.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.config.model import CausalMaskedDiffConfig
from cosyvoice.flow.pre_lookahead import PreLookahead
from cosyvoice.transformer.layers import InputEmbedding, make_layers, run_layers
from cosyvoice.transformer.masks import attention_mask, padding_mask
from cosyvoice.transformer.positions import relative_positions


class Upsample(nn.Module):
    """`stride` times as many frames: each is repeated, then smoothed with those before it."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(channels, channels, 2 * stride + 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, time] -> [batch, channels, stride * time]."""
        x = x.repeat_interleave(self.stride, dim=2)
        return self.conv(F.pad(x, (2 * self.stride, 0)))


class UpsampleConformerEncoder(nn.Module):
    """The names of its parameters are those of the released `flow.pt`."""

    def __init__(self, config: CausalMaskedDiffConfig) -> None:
        super().__init__()
        encoder = config.encoder
        width = encoder.output_size
        self.chunk = encoder.static_chunk_size
        self.embed = InputEmbedding(encoder)
        self.pre_lookahead_layer = PreLookahead(width, width, config.pre_lookahead_len)
        self.encoders = make_layers(encoder)
        self.up_layer = Upsample(width, config.token_mel_ratio)
        self.up_embed = InputEmbedding(encoder, width)
        self.up_encoders = make_layers(encoder, config.up_blocks)
        self.after_norm = nn.LayerNorm(width, eps=1e-5)

    def forward(
        self, x: Tensor, context: Tensor | None = None, lengths: Tensor | None = None, streaming: bool = False
    ) -> Tensor:
        """[batch, tokens, input_size] -> [batch, frames, output_size].

        Args:
            context: embedded tokens that follow `x` [batch, pre_lookahead_len, input_size]; None: `x` is the end.
            lengths: tokens that are real [batch]; None: all.
            streaming: attention sees chunks of `static_chunk_size` tokens and everything before them.
        """
        h = self.embed(x)
        h = self.pre_lookahead_layer(h, None if context is None else self.embed(context))
        h = self._attend(self.encoders, h, lengths, self.chunk if streaming else 0)
        stride = self.up_layer.stride
        h = self.up_embed(self.up_layer(h.transpose(1, 2)).transpose(1, 2))
        lengths = None if lengths is None else lengths * stride
        h = self._attend(self.up_encoders, h, lengths, self.chunk * stride if streaming else 0)
        return self.after_norm(h)

    @staticmethod
    def _attend(layers: nn.ModuleList, x: Tensor, lengths: Tensor | None, chunk: int) -> Tensor:
        time = x.shape[1]
        valid = x.new_ones(x.shape[:2]).bool() if lengths is None else padding_mask(lengths, time)
        positions = relative_positions(time, x.shape[2], x.device).to(x.dtype)
        return run_layers(layers, x, positions, attention_mask(valid, chunk))
