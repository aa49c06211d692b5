"""Speech from the thread that makes it to the coroutine that sends it, with a bound between them.

The thread waits while the buffer is full, so a slow reader costs no memory; one who takes nothing at all is given up
after a while, so it does not keep a place either. Both sides may leave at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from cosyvoice.engine.stages import FloatArray
from cosyvoice.server.errors import Cancelled, RequestError

Pausing = Callable[[], AbstractContextManager[None]]


class Channel:
    """Chunks of samples in order.

    Args:
        capacity: samples that may wait; a single chunk may be larger.
        stall_seconds: how long the thread waits for a reader.
        loop: of the reader.
        pausing: a context in which the thread waits.
    """

    def __init__(
        self,
        capacity: int,
        stall_seconds: float,
        loop: asyncio.AbstractEventLoop,
        pausing: Pausing = contextlib.nullcontext,
    ) -> None:
        self._capacity, self._stall_seconds, self._loop, self._pausing = capacity, stall_seconds, loop, pausing
        self._space = threading.Condition()
        self._news = asyncio.Event()
        self._chunks: deque[FloatArray] = deque()
        self._waiting = 0
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None

    def put(self, samples: FloatArray) -> None:
        """From the thread: add a chunk, as soon as there is space.

        Raises `Cancelled` where the reader has left, `RequestError` where it takes nothing.
        """
        with self._space:
            full = self._is_full(len(samples))
        if full:
            # There is one writer, so the space that it waited for stays.
            with self._pausing():
                self._await_space(len(samples))
        with self._space:
            if self._closed:
                raise Cancelled
            self._chunks.append(samples)
            self._waiting += len(samples)
        self._wake()

    def _is_full(self, length: int) -> bool:
        return not self._closed and self._waiting > 0 and self._waiting + length > self._capacity

    def _await_space(self, length: int) -> None:
        with self._space:
            while self._is_full(length):
                # Only the reader notifies, so a wait that runs out means that it took nothing at all.
                if not self._space.wait(self._stall_seconds):
                    raise RequestError(
                        f"the client took no audio for {self._stall_seconds:g} s; read the answer as it comes",
                        status=408, code="client_too_slow",
                    )  # fmt: skip

    def finish(self, error: BaseException | None = None) -> None:
        """From the thread: nothing more will come. `error` is raised at the reader, behind the last chunk."""
        with self._space:
            self._ended, self._error = True, error
        self._wake()

    def close(self) -> None:
        """From the reader: drop what waits and stop the writer."""
        with self._space:
            self._closed = True
            self._chunks.clear()
            self._waiting = 0
            self._space.notify_all()
        self._news.set()

    async def wait(self) -> None:
        """Until there is a chunk or the end; raises the error of a writer that has nothing else to give."""
        while True:
            with self._space:
                if self._closed:
                    raise Cancelled
                if self._chunks:
                    return
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    return
                self._news.clear()
            await self._news.wait()

    async def get(self) -> FloatArray | None:
        """The next chunk, or None behind the last. Raises the writer's error."""
        await self.wait()
        with self._space:
            if not self._chunks:
                return None
            samples = self._chunks.popleft()
            self._waiting -= len(samples)
            self._space.notify_all()
            return samples

    def _wake(self) -> None:
        # A loop that is closed has no reader any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._news.set)
