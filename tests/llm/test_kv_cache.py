"""The cache returns what it was given, grows without losing anything, and caches never share memory."""

from __future__ import annotations

import pytest
import torch

from cosyvoice.config.model import Qwen2Config
from cosyvoice.errors import ConfigError
from cosyvoice.llm.kv_cache import KVCache


def test_growth_keeps_what_was_stored(qwen_config: Qwen2Config) -> None:
    cache = KVCache(qwen_config, capacity=2)
    rows = torch.randn(1, 2, 7, 8)
    for start, end in ((0, 2), (2, 3), (3, 7)):
        for layer in range(qwen_config.num_layers):
            keys, values = cache.append(layer, rows[:, :, start:end] + layer, -rows[:, :, start:end])
            torch.testing.assert_close(keys, rows[:, :, :end] + layer)
            torch.testing.assert_close(values, -rows[:, :, :end])
        cache.advance(end - start)
    assert cache.length == 7 and cache.capacity == 8


def test_two_caches_are_apart(qwen_config: Qwen2Config) -> None:
    first, second = KVCache(qwen_config, capacity=2), KVCache(qwen_config, capacity=2)
    kept, _ = first.append(0, torch.ones(1, 2, 1, 8), torch.ones(1, 2, 1, 8))
    second.append(0, torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 8))
    assert kept.min() == 1.0


def test_empty_capacity_is_refused(qwen_config: Qwen2Config) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        KVCache(qwen_config, capacity=0)
