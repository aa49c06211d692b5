"""Memory that the C library's heap would keep or waste: large arrays outside of it, and its gaps given back."""

from __future__ import annotations

import ctypes
import mmap
import sys
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray


def mapped(size: int) -> NDArray[np.uint8]:
    """`size` undefined bytes which take memory page by page, as they are written, and go back to the system when they
    are dropped. Raises `MemoryError` or `OSError` where there are not as many."""
    if sys.platform != "linux" or not size:
        return np.empty(size, np.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # In huge pages, which NumPy asks for, the first byte takes two megabytes.
    with suppress(OSError):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def return_free_memory() -> None:
    """Give memory that was freed back to the system, where the C library keeps it: after loading, the bytes of weights
    that sessions hold in other layouts."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):
            return  # another C library than glibc, which has nothing of the kind
