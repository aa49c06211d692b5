"""What encoders are made of: the embedding of their input and two kinds of layer, which differ in names and activation.

Both kinds are pre-norm: attention, then a feed-forward net, each added to what it read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, nn

from cosyvoice.config.model import EncoderConfig
from cosyvoice.transformer.attention import RelativePositionAttention
from cosyvoice.transformer.kv_cache import KVCache

LAYER_EPS = 1e-12


class InputEmbedding(nn.Module):
    """Linear layer and norm, times sqrt(channels); the legacy kind has a ReLU before the factor."""

    def __init__(self, config: EncoderConfig, input_size: int | None = None) -> None:
        """`input_size` replaces that of the configuration."""
        super().__init__()
        parts: list[nn.Module] = [
            nn.Linear(config.input_size if input_size is None else input_size, config.output_size),
            nn.LayerNorm(config.output_size, eps=1e-5),
            nn.Dropout(config.dropout),
        ]
        if config.input_layer == "linear_legacy":
            parts.append(nn.ReLU())
        self.out = nn.Sequential(*parts)
        self.scale = math.sqrt(config.output_size)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [batch, time, input_size] to [batch, time, output_size]."""
        return self.out(x) * self.scale


class FeedForward(nn.Module):
    """w_2(activation(w_1(x)))."""

    def __init__(self, config: EncoderConfig, activation: nn.Module) -> None:
        super().__init__()
        self.w_1 = nn.Linear(config.output_size, config.linear_units)
        self.w_2 = nn.Linear(config.linear_units, config.output_size)
        self.activation = activation
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(self.dropout(self.activation(self.w_1(x))))


class ConformerLayer(nn.Module):
    """The Conformer of the released models, which has neither convolution nor a second feed-forward net; SiLU."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attn = RelativePositionAttention(config.output_size, config.attention_heads)
        self.feed_forward = FeedForward(config, nn.SiLU())
        self.norm_ff = nn.LayerNorm(config.output_size, eps=LAYER_EPS)
        self.norm_mha = nn.LayerNorm(config.output_size, eps=LAYER_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor | None = None, cache: KVCache | None = None, layer: int = 0
    ) -> Tensor:
        """See `RelativePositionAttention.forward`."""
        x = x + self.dropout(self.self_attn(self.norm_mha(x), positions, mask, cache, layer))
        return x + self.dropout(self.feed_forward(self.norm_ff(x)))


class TransformerLayer(nn.Module):
    """A Transformer layer with ReLU."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attn = RelativePositionAttention(config.output_size, config.attention_heads)
        self.feed_forward = FeedForward(config, nn.ReLU())
        self.norm1 = nn.LayerNorm(config.output_size, eps=LAYER_EPS)
        self.norm2 = nn.LayerNorm(config.output_size, eps=LAYER_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor | None = None, cache: KVCache | None = None, layer: int = 0
    ) -> Tensor:
        """See `RelativePositionAttention.forward`."""
        x = x + self.dropout(self.self_attn(self.norm1(x), positions, mask, cache, layer))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


def make_layers(config: EncoderConfig, count: int | None = None) -> nn.ModuleList:
    """`count` layers, by default `config.num_blocks`, of the kind that `config` names."""
    kind = ConformerLayer if config.layer == "conformer" else TransformerLayer
    return nn.ModuleList(kind(config) for _ in range(config.num_blocks if count is None else count))


def run_layers(
    layers: Iterable[nn.Module],
    x: Tensor,
    positions: Tensor,
    mask: Tensor | None = None,
    cache: KVCache | None = None,
) -> Tensor:
    """`x` [batch, time, channels] through `layers`; what it adds to `cache` is valid once the caller advances it."""
    for index, layer in enumerate(layers):
        x = layer(x, positions, mask, cache, index)
    return x
