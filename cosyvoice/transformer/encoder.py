"""A stack of relative-position attention: the text encoder and the decoder of the first generation's language model,
and the encoder of its flow.

Whether a position sees the future is decided by the caller: attention in chunks (one position is causal), or full.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cosyvoice.config.model import EncoderConfig
from cosyvoice.transformer.kv_cache import KVCache
from cosyvoice.transformer.layers import InputEmbedding, make_layers, run_layers
from cosyvoice.transformer.masks import attention_mask, causal_mask, padding_mask
from cosyvoice.transformer.positions import relative_positions, sinusoids

CACHED_PARTS = 3
"""Keys, values and projected distances."""


class Encoder(nn.Module):
    """Embedding, layers, norm; parts and names are those of released checkpoints."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = InputEmbedding(config)
        self.encoders = make_layers(config)
        self.after_norm = nn.LayerNorm(config.output_size, eps=1e-5)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        chunk: int | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """`x` [batch, time, input_size] to [batch, time, output_size].

        Args:
            lengths: of the sequences [batch]; None: none is padded.
            chunk: positions of an attention chunk, 0 for full attention; None takes `static_chunk_size`.
            cache: what precedes `x`, which is added to it. Attention is causal then, whatever `chunk` says.
        """
        x = self.embed(x)
        time = x.shape[1]
        if cache is None:
            valid = x.new_ones(x.shape[:2], dtype=torch.bool) if lengths is None else padding_mask(lengths, time)
            mask = attention_mask(valid, self.config.static_chunk_size if chunk is None else chunk)
            positions = relative_positions(time, x.shape[2], x.device)
        else:
            end = cache.length + time
            mask = causal_mask(time, end, x.device)
            positions = sinusoids(torch.arange(cache.length, end, device=x.device), x.shape[2])
        x = run_layers(self.encoders, x, positions.to(x.dtype), mask, cache)
        if cache is not None:
            cache.advance(time)
        return self.after_norm(x)

    def new_cache(self, batch: int = 1, capacity: int = 512) -> KVCache:
        """An empty cache on the device and in the precision of the weights."""
        weight, heads = self.after_norm.weight, self.config.attention_heads
        return KVCache(
            len(self.encoders), heads, self.config.output_size // heads, batch, capacity, weight.device, weight.dtype,
            CACHED_PARTS,
        )  # fmt: skip
