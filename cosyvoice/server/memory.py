"""Memory that was used goes back to the system, so that a server's size says what it holds.

glibc raises the size from which an allocation has a mapping of its own to that of the largest block that was freed so
far, up to 32 MiB, and gives every few threads an arena. After that the arrays of a synthesis, of which no two are of
the same length, lie in arenas that are hardly ever empty at their end, and the process keeps a multiple of its needs.
"""

from __future__ import annotations

import ctypes
import platform
import threading
import time

from cosyvoice.native.memory import return_free_memory

# From <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_ARENAS = 2
_MAPPED_FROM = 2**20
"""Bytes. With 256 KiB memory is lower still, and speech a fifth slower for all the pages that are mapped anew."""
_KEPT_FREE = 4 * 2**20


def bound_allocator() -> bool:
    """Fix the thresholds of glibc's allocator for this process; False where it is another one.

    Call it before threads begin. Whoever has set `MALLOC_…` in the environment is overruled.
    """
    if not _is_glibc():
        return False
    options = ((_ARENA_MAX, _ARENAS), (_MMAP_THRESHOLD, _MAPPED_FROM), (_TRIM_THRESHOLD, _KEPT_FREE))
    set_option = ctypes.CDLL(None).mallopt
    return sum(set_option(option, value) for option, value in options) == len(options)


class FreeMemory:
    """Gives unused pages from the middle of the arenas back, which glibc does of itself only at their ends.

    Args:
        seconds: between two times; each costs some milliseconds and the pages that are needed again.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds, self._next = seconds, 0.0
        self._possible = _is_glibc()
        self._freed = False
        self._lock = threading.Lock()

    def freed(self) -> bool:
        """Something has been freed, which goes back now or later; as `give_back`."""
        self._freed = True
        return self.give_back()

    def give_back(self) -> bool:
        """Do it where something was freed and it is due; from any thread. Whether it was done."""
        due = self._possible and self._freed and time.monotonic() >= self._next
        if not due or not self._lock.acquire(blocking=False):
            return False
        try:
            self._freed = False
            return_free_memory()
            self._next = time.monotonic() + self._seconds
        finally:
            self._lock.release()
        return True


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
