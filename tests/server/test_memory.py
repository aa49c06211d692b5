from __future__ import annotations

import subprocess
import sys

import pytest

from cosyvoice.server import memory
from cosyvoice.server.memory import FreeMemory, bound_allocator

# Blocks that shrink, each freed before the next, as the arrays of one synthesis after the other; a small one behind
# each keeps the arena from being empty at its end.
_CHURN = """
import ctypes, sys
from cosyvoice.server.memory import bound_allocator
if sys.argv[1] == "bound":
    assert bound_allocator()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
size = 2**25 - 2**20
for index in range(16):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    pin = libc.malloc(64)
    libc.free(block)
    size -= 2**20
print([int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")][0])
"""

glibc = pytest.mark.skipif(not memory._is_glibc(), reason="another allocator")


@glibc
def test_freed_blocks_go_back_to_the_system() -> None:
    bound, usual = (
        int(subprocess.run([sys.executable, "-c", _CHURN, how], check=True, capture_output=True, text=True).stdout)
        for how in ("bound", "usual")
    )
    assert bound < usual - 8 * 1024


@glibc
def test_memory_is_given_back_at_most_once_in_a_while() -> None:
    free = FreeMemory(seconds=60)
    assert free.freed() and not free.freed()


@glibc
def test_what_was_freed_before_it_was_due_is_given_back_later_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(memory.time, "monotonic", lambda: now)
    free = FreeMemory(seconds=60)
    assert not free.give_back() and free.freed() and not free.freed()
    now = 61.0
    assert free.give_back()
    now = 122.0
    assert not free.give_back()


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert not bound_allocator() and not FreeMemory().freed()
