"""The key-value cache of one decoding session: preallocated, owned by the caller, doubled when it is full."""

from __future__ import annotations

import torch
from torch import Tensor

from cosyvoice.config.model import Qwen2Config
from cosyvoice.errors import ConfigError


class KVCache:
    """Rotated keys and values of every layer, [batch, kv_heads, capacity, head_dim] each.

    `length` positions are valid. A forward pass appends its rows layer by layer and then advances `length`
    once.
    """

    def __init__(
        self,
        config: Qwen2Config,
        batch: int = 1,
        capacity: int = 512,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if capacity < 1:
            raise ConfigError(f"a cache holds at least one position, not {capacity}")
        shape = (batch, config.num_kv_heads, capacity, config.hidden_size // config.num_heads)
        self.length = 0
        self._keys = [torch.empty(shape, device=device, dtype=dtype) for _ in range(config.num_layers)]
        self._values = [torch.empty(shape, device=device, dtype=dtype) for _ in range(config.num_layers)]

    @property
    def capacity(self) -> int:
        """Positions that fit before the buffers grow."""
        return self._keys[0].shape[2]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store rows [batch, kv_heads, time, head_dim] of `layer`; return all its keys and values."""
        end = self.length + key.shape[2]
        self._keys[layer] = self._room(self._keys[layer], end)
        self._values[layer] = self._room(self._values[layer], end)
        self._keys[layer][:, :, self.length : end] = key
        self._values[layer][:, :, self.length : end] = value
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

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
