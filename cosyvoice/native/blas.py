"""NumPy's products on one thread while a stage computes.

OpenBLAS, which NumPy brings, gives larger products to threads of its own, and these go on spinning for some time after
each: they take the cores from ONNX Runtime, whose work comes next and counts for more. On two cores that cost the
small model a sixth of its time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ContextDecorator
from functools import cached_property

from threadpoolctl import LibController, ThreadpoolController


class OneBlasThread(ContextDecorator):
    """Keeps OpenBLAS on one thread as long as somebody is inside; other BLAS libraries are left alone.

    Its number of threads is common to the whole process, so those who are inside are counted: the first one in
    sets it, and the last one out sets it back. Safe from many threads. Works as a decorator, too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[int] = []

    @cached_property
    def _libraries(self) -> list[LibController]:
        found = ThreadpoolController().select(internal_api="openblas").lib_controllers
        # On OpenMP each thread has a number of its own, and the threads do not spin.
        return [library for library in found if library.info().get("threading_layer") != "openmp"]

    def __enter__(self) -> OneBlasThread:
        with self._lock:
            if not self._inside:
                self._before = [library.get_num_threads() for library in self._libraries]
                self._set([1] * len(self._libraries))
            self._inside += 1
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._set(self._before)

    def _set(self, threads: Sequence[int]) -> None:
        """The lock is held."""
        for library, count in zip(self._libraries, threads, strict=True):
            # Later versions of threadpoolctl let the first thread that set a number set others, and nobody else.
            if clear := getattr(library, "clear_controlling_thread", None):
                clear(force=True)
            library.set_num_threads(count)
            if clear:
                clear(force=True)


one_blas_thread = OneBlasThread()
"""Of this process."""
