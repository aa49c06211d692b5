"""The diffusion transformer (DiT) that estimates the velocity of V3.

Transformer blocks whose layer norms are shifted, scaled and gated by the flow time (AdaLN-zero, Peebles &
Xie, "Scalable Diffusion Models with Transformers", 2023). Under autocast the matrix products run in low
precision while the residual stream keeps the precision of the mel. Linear layers that modulate and that give
the output start at zero, so that a fresh estimator predicts velocity 0.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.config.model import DiTConfig
from cosyvoice.flow.embedding import InputEmbedding, TimeEmbedding
from cosyvoice.flow.rotary import RotaryEmbedding, rotate_first_channels
from cosyvoice.transformer.masks import attention_mask

LAYER_NORM_EPS = 1e-6


def _zero_linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights, then an affine map [batch, dim] that is the same for all frames."""
    x = F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class AdaLayerNormZero(nn.Module):
    """Time embedding -> modulation of both halves of a block."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = _zero_linear(dim, 6 * dim)

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`x` [batch, frames, dim], `time` [batch, dim] -> modulated `x` for the attention, gate of the
        attention, and shift, scale and gate of the feed-forward layer, each [batch, dim]."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.linear(F.silu(time)).chunk(6, dim=-1)
        return _modulate(x, shift, scale), gate, ff_shift, ff_scale, ff_gate


class AdaLayerNormFinal(nn.Module):
    """Modulation before the output. Its rows hold scale, then shift: the other order than in the blocks."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = _zero_linear(dim, 2 * dim)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(time)).chunk(2, dim=-1)
        return _modulate(x, shift, scale)


class Attention(nn.Module):
    """Multi-head self-attention; positions enter through the first head only (see `rotary`)."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * dim_head
        self.to_q = nn.Linear(dim, inner)
        self.to_k = nn.Linear(dim, inner)
        self.to_v = nn.Linear(dim, inner)
        # The list leaves room for the dropout that the released layout counts behind the projection.
        self.to_out = nn.ModuleList([nn.Linear(inner, dim)])

    def forward(self, x: Tensor, mask: Tensor, valid: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """`x` [batch, time, dim] -> the same shape, zero at padded frames.

        `mask` bool [batch, 1, 1 or time, time] says which keys a query sees, `valid` [batch, time] which
        frames are not padding.
        """
        q = self._split(rotate_first_channels(self.to_q(x), *rope))
        k = self._split(rotate_first_channels(self.to_k(x), *rope))
        v = self._split(self.to_v(x))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = self.to_out[0](h.transpose(1, 2).flatten(2))
        # The released implementation takes this mask from the last query, which sees all chunks: that is the
        # padding mask.
        return h.masked_fill(~valid.unsqueeze(-1), 0.0)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear, GELU (tanh approximation), Linear."""

    def __init__(self, dim: int, mult: int) -> None:
        super().__init__()
        hidden = nn.Sequential(nn.Linear(dim, dim * mult), nn.GELU(approximate="tanh"))
        # The released layout has a dropout at index 1.
        self.ff = nn.Sequential(hidden, nn.Identity(), nn.Linear(dim * mult, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


class DiTBlock(nn.Module):
    """Attention and feed-forward layer, each with modulated input and gated output."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.attn_norm = AdaLayerNormZero(config.dim)
        self.attn = Attention(config.dim, config.heads, config.dim_head)
        self.ff = FeedForward(config.dim, config.ff_mult)

    def forward(self, x: Tensor, time: Tensor, mask: Tensor, valid: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        h, gate, ff_shift, ff_scale, ff_gate = self.attn_norm(x, time)
        x = x + gate.unsqueeze(1) * self.attn(h, mask, valid, rope)
        return x + ff_gate.unsqueeze(1) * self.ff(_modulate(x, ff_shift, ff_scale))


class DiT(nn.Module):
    """Velocity estimator of V3."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.chunk = config.static_chunk_size
        in_channels = 2 * config.mel_dim + config.mu_dim + config.spk_dim
        self.time_embed = TimeEmbedding(config.dim)
        self.input_embed = InputEmbedding(in_channels, config.dim, config.conv_pos_groups)
        self.rotary_embed = RotaryEmbedding(config.dim_head)
        self.transformer_blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.norm_out = AdaLayerNormFinal(config.dim)
        self.proj_out = _zero_linear(config.dim, config.out_channels)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        mu: Tensor,
        t: Tensor,
        spks: Tensor,
        cond: Tensor,
        streaming: bool = False,
    ) -> Tensor:
        """Velocity [batch, out_channels, time].

        `x` (noisy mel), `mu` (encoder output), `cond` (prompt mel, zeros behind it) are [batch, channels,
        time], `mask` [batch, 1, time] is 1 at real frames, `t` [batch] in 0..1, `spks` [batch, channels].
        With `streaming` attention is chunk-causal. The output is not masked: padded frames hold arbitrary
        values.
        """
        valid = mask.squeeze(1).bool()
        visible = attention_mask(valid, self.chunk if streaming else None).unsqueeze(1)
        time = self.time_embed(t)
        h = self.input_embed(x.transpose(1, 2), cond.transpose(1, 2), mu.transpose(1, 2), spks)
        h = h.to(x.dtype)
        rope = self.rotary_embed(h.shape[1])
        for block in self.transformer_blocks:
            h = block(h, time, visible, valid, rope)
        return self.proj_out(self.norm_out(h, time)).transpose(1, 2)
