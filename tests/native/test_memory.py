from __future__ import annotations

import sys

import numpy as np
import pytest

from cosyvoice.benchmark.machine import resident_mb
from cosyvoice.native.memory import mapped, return_free_memory

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@only_linux
def test_memory_that_was_freed_goes_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [np.ones(20_000, np.uint8) for _ in range(5_000)]
    kept = held[::100]
    del held
    before = resident_mb()
    return_free_memory()
    assert resident_mb() < before - 50 and len(kept) == 50
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    return_free_memory()


@only_linux
def test_mapped_memory_is_taken_as_it_is_written_and_given_back() -> None:
    before = resident_mb()
    array = mapped(200 << 20)
    assert array.size == 200 << 20 and resident_mb() - before < 5
    array[:: 1 << 21] = 1
    assert resident_mb() - before < 5
    array[:] = 1
    assert resident_mb() - before > 190
    del array
    assert resident_mb() - before < 5
    assert mapped(0).size == 0
