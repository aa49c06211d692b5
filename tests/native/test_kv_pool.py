"""Memory of the key-value buffers; what they hold is tested with the language model."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from cosyvoice.benchmark.machine import resident_mb
from cosyvoice.errors import GenerationError
from cosyvoice.native.kv_pool import KVPool, Sequence


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_is_taken_as_it_is_written() -> None:
    before = resident_mb()
    pool = KVPool(layers=24, heads=2, head_dim=64, slots=8, max_slots=8, capacity=1024, max_capacity=1024)
    assert pool.buffers.nbytes == 192 * 2**20
    pool.place(Sequence())
    pool.buffers[:, 0, :, :100] = 1.0
    assert resident_mb() - before < 20
    assert np.all(pool.buffers[:, 0, :, :100] == 1.0)


def test_more_than_there_is() -> None:
    with pytest.raises(GenerationError, match="out of memory"):
        KVPool(layers=1, heads=1, head_dim=2**20, slots=2**20, max_slots=2**20, capacity=2**20, max_capacity=2**20)
