"""Text that a client is still writing: pushed by its connection, read by the thread that speaks it."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator

from cosyvoice.server.channel import Pausing
from cosyvoice.server.errors import Cancelled, RequestError


class TextFeed:
    """Parts of a text, of any length. One side calls `push` and `finish`, the other iterates; either may `close`.

    Args:
        most: characters that may wait to be read, and of the whole text.
        idle_seconds: how long the reader waits for the next part.
    """

    def __init__(self, most: int, idle_seconds: float) -> None:
        self._most, self._idle_seconds = most, idle_seconds
        self.pausing: Pausing = contextlib.nullcontext
        """A context in which the reader waits."""
        self._changed = threading.Condition()
        self._parts: deque[str] = deque()
        self._length = 0
        self._ended = False
        self._closed = False

    def __len__(self) -> int:
        """Characters that have been pushed."""
        return self._length

    def push(self, text: str) -> None:
        """Append to the text. Raises `RequestError` where it becomes too long, or has ended."""
        with self._changed:
            if self._ended:
                raise RequestError("this text has ended; begin a new one", param="text", code="invalid_state")
            if self._length + len(text) > self._most:
                raise RequestError(
                    f"the text has more than {self._most} characters; end it and begin a new one",
                    param="text", code="string_above_max_length",
                )  # fmt: skip
            self._length += len(text)
            if text:
                self._parts.append(text)
                self._changed.notify_all()

    def finish(self) -> None:
        """The text is complete."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the reader at once."""
        with self._changed:
            self._ended = self._closed = True
            self._parts.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next part; waits for it. Raises `RequestError` when it waits too long, `Cancelled` when closed."""
        with self._changed:
            empty = not (self._parts or self._ended)
        if empty:
            with self.pausing():
                self._await_text()
        with self._changed:
            if self._closed:
                raise Cancelled
            if not self._parts:
                raise StopIteration
            return self._parts.popleft()

    def _await_text(self) -> None:
        """Until there is a part or the end."""
        with self._changed:
            while not (self._parts or self._ended):
                if not self._changed.wait(self._idle_seconds):
                    raise RequestError(
                        f"no text came for {self._idle_seconds:g} s; end the text, or keep writing",
                        status=408, param="text", code="idle_timeout",
                    )  # fmt: skip
