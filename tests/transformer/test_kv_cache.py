"""The cache returns what it was given, grows without losing anything, and caches never share memory."""

from __future__ import annotations

import pytest
import torch

from cosyvoice.errors import ConfigError
from cosyvoice.transformer.kv_cache import KVCache

LAYERS = 3


def test_growth_keeps_what_was_stored() -> None:
    cache = KVCache(LAYERS, 2, 8, capacity=2)
    rows = torch.randn(1, 2, 7, 8)
    for start, end in ((0, 2), (2, 3), (3, 7)):
        for layer in range(LAYERS):
            keys, values = cache.append(layer, rows[:, :, start:end] + layer, -rows[:, :, start:end])
            torch.testing.assert_close(keys, rows[:, :, :end] + layer)
            torch.testing.assert_close(values, -rows[:, :, :end])
        cache.advance(end - start)
    assert cache.length == 7 and cache.capacity == 8


def test_two_caches_are_apart() -> None:
    first, second = KVCache(LAYERS, 2, 8, capacity=2), KVCache(LAYERS, 2, 8, capacity=2)
    kept, _ = first.append(0, torch.ones(1, 2, 1, 8), torch.ones(1, 2, 1, 8))
    second.append(0, torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 8))
    assert kept.min() == 1.0


def test_empty_capacity_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        KVCache(LAYERS, 2, 8, capacity=0)


def test_a_layer_keeps_as_many_parts_as_asked_for() -> None:
    cache = KVCache(1, 2, 8, capacity=1, parts=3)
    rows = [torch.randn(1, 2, 5, 8) for _ in range(3)]
    for mine, kept in zip(rows, cache.append(0, *rows), strict=True):
        torch.testing.assert_close(kept, mine)
