"""Stages at the same time: a generator runs ahead in a thread of its own while its items are worked on.

The language model can so say the tokens of the next chunk while flow and vocoder compute the last one. Nothing
runs on after `close`, and an error in the thread is raised where the items are taken.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class _End:
    """Put into the queue behind the last item, with the error that ended the generator, if one did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class RunAhead(Generic[T]):
    """The items of `source`, in order, computed ahead of their use."""

    def __init__(self, source: Generator[T, None, None]) -> None:
        self._source = source
        self._ready: SimpleQueue[T | _End] = SimpleQueue()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cosyvoice-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        item = self._ready.get()
        if not isinstance(item, _End):
            return item
        self._ready.put(item)  # whoever asks again gets the same answer
        if item.error is not None:
            raise item.error
        raise StopIteration

    def close(self) -> None:
        """Stop at the next item and wait until the source has given back what it holds."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._source:
                if self._stopped.is_set():
                    break
                self._ready.put(item)
        except BaseException as caught:
            error = caught
        finally:
            self._source.close()
            self._ready.put(_End(error))
