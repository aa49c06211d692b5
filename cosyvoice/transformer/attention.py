"""Self-attention that scores a query against what stands at a key and against how far away that is.

score = ((q + u)·k + (q + v)·p) / sqrt(head_dim), p the projected sinusoid of the distance from key to query, u and v
learned (Dai et al. 2019, section 3.3). The second term goes into fused attention as an additive bias.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosyvoice.errors import ConfigError
from cosyvoice.transformer.kv_cache import KVCache


class RelativePositionAttention(nn.Module):
    """Multi-head attention with relative positions; names as in released checkpoints."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ConfigError(f"{channels} channels do not divide into {heads} heads; choose a multiple")
        self.heads, self.head_dim = heads, channels // heads
        self.linear_q = nn.Linear(channels, channels)
        self.linear_k = nn.Linear(channels, channels)
        self.linear_v = nn.Linear(channels, channels)
        self.linear_out = nn.Linear(channels, channels)
        self.linear_pos = nn.Linear(channels, channels, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(heads, self.head_dim))
        self.pos_bias_v = nn.Parameter(torch.empty(heads, self.head_dim))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """`x` [batch, time, channels] to the same.

        Without a cache, `positions` are the sinusoids [2 time - 1, channels] of `relative_positions`. With one, which
        takes a causal `mask`, they are those [time, channels] of the distances that this pass adds, cache.length and
        on: their projections are kept as a third part. `mask` is bool and broadcasts to [batch, queries, keys].
        """
        batch, time, _ = x.shape
        query, key, value = self._split(self.linear_q(x)), self._split(self.linear_k(x)), self._split(self.linear_v(x))
        distances = self._split(self.linear_pos(positions)[None])
        if cache is not None:
            key, value, distances = cache.append(layer, key, value, distances)
            # By falling distance, and with room for the future, which the mask hides.
            distances = F.pad(distances.flip(2), (0, 0, 0, time - 1))
        by_distance = (query + self.pos_bias_v[:, None]) @ distances.transpose(-2, -1)
        bias = shift(by_distance, key.shape[2]) / math.sqrt(self.head_dim)
        if mask is not None:
            bias = bias.masked_fill(~(mask if mask.dim() == 2 else mask[:, None]), -torch.inf)
        mixed = F.scaled_dot_product_attention(query + self.pos_bias_u[:, None], key, value, attn_mask=bias)
        return self.linear_out(mixed.transpose(1, 2).reshape(batch, time, -1))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.head_dim).transpose(1, 2)


def shift(by_distance: Tensor, keys: int) -> Tensor:
    """Scores [..., queries, keys] of pairs from scores [..., queries, queries + keys - 1] by falling distance.

    The last query is aligned with the last key, so each query finds its keys one place further left than the query
    before it: in memory, one row and one place less than a row further on.
    """
    queries, distances = by_distance.shape[-2:]
    return by_distance.flatten(-2)[..., queries - 1 :].unfold(-1, keys, max(distances - 1, 1))
