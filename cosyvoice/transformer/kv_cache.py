"""The key-value cache of one decoding session: preallocated, owned by the caller, doubled when it is full."""

from __future__ import annotations

import torch
from torch import Tensor

from cosyvoice.errors import ConfigError


class KVCache:
    """What every layer keeps of each position, [batch, heads, capacity, head_dim] each.

    `parts` tensors are kept a layer: keys and values, and whatever else a kind of attention needs. `length` positions
    are valid. A forward pass appends its rows layer by layer and then advances `length` once.
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        head_dim: int,
        batch: int = 1,
        capacity: int = 512,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        parts: int = 2,
    ) -> None:
        if capacity < 1:
            raise ConfigError(f"a cache holds at least one position, not {capacity}")
        shape = (batch, heads, capacity, head_dim)
        self.length = 0
        self._buffers = [[torch.empty(shape, device=device, dtype=dtype) for _ in range(parts)] for _ in range(layers)]

    @property
    def capacity(self) -> int:
        """Positions that fit before the buffers grow."""
        return self._buffers[0][0].shape[2]

    def append(self, layer: int, *rows: Tensor) -> tuple[Tensor, ...]:
        """Store `rows` [batch, heads, time, head_dim], one a part, of `layer`; return all that it has of each part."""
        buffers = self._buffers[layer]
        end = self.length + rows[0].shape[2]
        for index, new in enumerate(rows):
            buffers[index] = self._room(buffers[index], end)
            buffers[index][:, :, self.length : end] = new
        return tuple(buffer[:, :, :end] for buffer in buffers)

    def advance(self, count: int) -> None:
        """Declare `count` appended positions valid, once every layer has them."""
        self.length += count

    def _room(self, buffer: Tensor, needed: int) -> Tensor:
        capacity = buffer.shape[2]
        if needed <= capacity:
            return buffer
        while capacity < needed:
            capacity *= 2
        grown = buffer.new_empty(*buffer.shape[:2], capacity, buffer.shape[3])
        grown[:, :, : self.length] = buffer[:, :, : self.length]
        return grown
