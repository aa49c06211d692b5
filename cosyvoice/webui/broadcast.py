"""Speech on its way to a browser: one thread pushes samples, any number of requests read them from the start.

The page plays raw samples in one clock, sample after sample. A browser's own player would be given a file for every
chunk, and each file's encoder leaves a gap.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from cosyvoice.engine.stages import FloatArray

KEPT = 64
"""Streams that are remembered; older ones are forgotten."""
_PATIENCE_SECONDS = 120.0


class Broadcast:
    """Samples as 16-bit little-endian bytes, kept until the last reader is gone."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._parts: list[bytes] = []
        self._closed = False
        self._changed = threading.Condition()

    def push(self, samples: FloatArray) -> None:
        """Append `samples` [time] in [-1, 1]."""
        data = (np.clip(samples, -1.0, 1.0) * 32767).round().astype("<i2").tobytes()
        with self._changed:
            self._parts.append(data)
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def read(self) -> Iterator[bytes]:
        """All of it from the start, waiting for what is not there yet; ends also where nothing comes any more."""
        position = 0
        while parts := self._after(position):
            position += len(parts)
            yield b"".join(parts)

    def _after(self, position: int) -> list[bytes]:
        with self._changed:
            self._changed.wait_for(lambda: len(self._parts) > position or self._closed, _PATIENCE_SECONDS)
            return self._parts[position:]


class Broadcasts:
    """Streams by names that nobody can guess, so that a page hears its own speech only."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._streams: OrderedDict[str, Broadcast] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, sample_rate: int) -> tuple[str, Broadcast]:
        """A new stream and its name."""
        name, stream = secrets.token_urlsafe(18), Broadcast(sample_rate)
        with self._lock:
            self._streams[name] = stream
            while len(self._streams) > self._kept:
                self._streams.popitem(last=False)
        return name, stream

    def get(self, name: str) -> Broadcast | None:
        """The stream `name`, if it is still remembered."""
        with self._lock:
            return self._streams.get(name)
