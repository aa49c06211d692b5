"""Padding masks and chunk-causal attention masks, shared by encoders, language models and flow.

Streaming attention is causal at the level of chunks: a position sees its whole own chunk and everything to the
left of it, so that a finished chunk never changes when later positions arrive. A chunk of one position is plain causal
attention. The released implementation carries a setting for the number of left chunks but attends to all of them
whatever the setting says, and so do we.
"""

from __future__ import annotations

import torch
from torch import Tensor


def padding_mask(lengths: Tensor, size: int | None = None) -> Tensor:
    """Which positions are real: `lengths` [batch] -> bool [batch, size], `size` defaults to the longest."""
    if size is None:
        size = int(lengths.max())
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def chunk_mask(size: int, chunk: int, device: torch.device | None = None) -> Tensor:
    """Bool [size, size] (query, key): query i sees key j where j < (i // chunk + 1) * chunk."""
    position = torch.arange(size, device=device)
    end_of_chunk = (position // chunk + 1) * chunk
    return position.unsqueeze(0) < end_of_chunk.unsqueeze(1)


def attention_mask(valid: Tensor, chunk: int | None = None) -> Tensor:
    """Bool mask for attention from the padding mask `valid` [batch, time].

    Full attention (`chunk` None or 0) gives [batch, 1, time], which broadcasts over queries; with `chunk` positions
    the mask is [batch, time, time]. A query that would see nothing sees everything instead, as in the released
    implementation: a softmax over no key is not a number.
    """
    mask = valid.unsqueeze(1)
    if chunk:
        mask = mask & chunk_mask(valid.shape[1], chunk, valid.device)
    return mask | ~mask.any(dim=-1, keepdim=True)


def causal_mask(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """Bool [queries, keys], True where a query may look; the last query is aligned with the last key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
