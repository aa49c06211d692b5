"""What the flow remembers of earlier frames, and the memory of prompts that requests share.

Each evaluation of the velocity sees other values of the same frames, so it has keys, values and convolution states
of its own. They take 2 * depth * heads * dim_head values a frame in each row of each evaluation: with ten steps of
Euler, guided throughout, 10 MB a second of speech in single precision for the small model and 180 MB for the full
one. Half precision halves that, evaluations without guidance halve theirs, and a bounded context ends the growth.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.engine.stages import FloatArray
from cosyvoice.native.memory import mapped

_ALIGNMENT = 64
Cached = NDArray[Any]
"""Keys or values of one block [rows, heads, frames, dim_head], in single or half precision."""


@dataclass(frozen=True)
class EvaluationCache:
    """What one evaluation of the velocity needs of earlier frames."""

    convolutions: tuple[FloatArray, ...]
    """The last inputs of each causal convolution [rows, channels, frames]."""
    own: tuple[Cached, ...]
    """Keys, values of the first block, then of the others."""
    shared: tuple[Cached, ...] = ()
    """What comes before `own` in each of them and belongs to others as well; () for nothing. Never written into."""

    @property
    def blocks(self) -> tuple[Cached, ...]:
        """All keys and values."""
        if not self.shared:
            return self.own
        return tuple(np.concatenate(parts, axis=2) for parts in zip(self.shared, self.own, strict=True))

    @property
    def shared_frames(self) -> int:
        """Keys of a block that are shared."""
        return int(self.shared[0].shape[2]) if self.shared else 0


@dataclass(frozen=True)
class ContextLimit:
    """How many frames are remembered: the first `pinned` ones and the latest of the others."""

    frames: int | None
    """None: all."""
    pinned: int = 0

    @classmethod
    def of(cls, frames: int | None, chunk: int, prompt: int) -> ContextLimit:
        """At most `frames`, in whole chunks, and at most half of them for a prompt of `prompt` frames."""
        if frames is None:
            return cls(None)
        whole = frames // chunk * chunk
        return cls(whole, min(prompt, whole // 2) // chunk * chunk)


class FlowContext:
    """Caches of all evaluations behind the frames of a run of whole attention chunks.

    Belongs to one request. Keys carry their position, so their order in memory does not matter: once the limit is
    reached, a new chunk takes the place of the oldest one.
    """

    def __init__(self, evaluations: Sequence[EvaluationCache], limit: ContextLimit) -> None:
        self.evaluations = list(evaluations)
        self.limit = limit
        self.frames = 0
        """Frames of the utterance, prompt included, that lie behind."""

    @property
    def nbytes(self) -> int:
        """Memory of the arrays that are not shared."""
        return sum(array.nbytes for entry in self.evaluations for array in (*entry.own, *entry.convolutions))

    def fork(self) -> FlowContext:
        """A context of its own. What neither of them will ever replace is shared, the rest copied."""
        limit = self.limit
        held = self.frames if limit.frames is None else min(self.frames, limit.frames)
        kept = held if limit.frames is None else min(limit.pinned, held)
        copy = FlowContext([_forked(entry, kept, held) for entry in self.evaluations], limit)
        copy.frames = self.frames
        return copy

    def store(
        self, evaluation: int, convolutions: tuple[FloatArray, ...], new: Sequence[Cached], ratio: int = 1
    ) -> None:
        """Keys and values of the next chunk, one for each `ratio` of its frames; call `advance` once all evaluations
        have theirs."""
        entry = self.evaluations[evaluation]
        place = self._place(new[0].shape[2] * ratio)
        own = entry.own
        if place is None:
            own = _joined(own, new)
        else:
            begin = place // ratio - entry.shared_frames
            for held, array in zip(own, new, strict=True):
                held[:, :, begin : begin + array.shape[2]] = array
        self.evaluations[evaluation] = EvaluationCache(convolutions, own, entry.shared)

    def advance(self, frames: int) -> None:
        """The chunk of `frames` lies behind."""
        self.frames += frames

    def _place(self, frames: int) -> int | None:
        """Where a chunk of `frames` goes; None: behind all others."""
        limit = self.limit
        if limit.frames is None or self.frames + frames <= limit.frames:
            return None
        return limit.pinned + (self.frames - limit.pinned) % (limit.frames - limit.pinned)


def _forked(entry: EvaluationCache, kept: int, held: int) -> EvaluationCache:
    """`entry` of `held` frames, the first `kept` of them shared. It may have one key for several frames."""
    blocks = entry.blocks
    count = blocks[0].shape[2] * kept // max(held, 1) if blocks else 0
    own = tuple(array[:, :, count:].copy() for array in blocks)
    return EvaluationCache(entry.convolutions, own, tuple(array[:, :, :count] for array in blocks) if count else ())


def _joined(held: Sequence[Cached], new: Sequence[Cached]) -> tuple[Cached, ...]:
    """`new` behind `held` along the frames.

    All arrays lie in one block of memory, outside of the heap: between many arrays of growing sizes it keeps gaps of
    almost as much memory as they take.
    """
    shapes = [
        (*old.shape[:2], old.shape[2] + array.shape[2], old.shape[3]) for old, array in zip(held, new, strict=True)
    ]
    sizes = [math.prod(shape) * array.itemsize for shape, array in zip(shapes, new, strict=True)]
    memory = mapped(sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes))
    joined, offset = [], 0
    for shape, size, old, array in zip(shapes, sizes, held, new, strict=True):
        both: Cached = memory[offset : offset + size].view(array.dtype).reshape(shape)
        both[:, :, : old.shape[2]] = old
        both[:, :, old.shape[2] :] = array
        joined.append(both)
        offset += -(-size // _ALIGNMENT) * _ALIGNMENT
    return tuple(joined)


class PromptCache:
    """Contexts of prompts by key, at most `capacity` bytes, the least recently used ones dropped first.

    Safe from many threads; those that ask for the same prompt at once wait for one computation of it.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, FlowContext] = OrderedDict()
        self._running: dict[bytes, Future[FlowContext]] = {}
        self._unwanted: set[bytes] = set()
        """Keys that were forgotten while they were computed."""

    @property
    def nbytes(self) -> int:
        """Memory of the prompts that are kept."""
        with self._lock:
            return sum(context.nbytes for context in self._kept.values())

    def get(self, key: bytes, compute: Callable[[], FlowContext]) -> FlowContext:
        """The context of `key`, for `fork` only; what `compute` raises is raised to all who wait for it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            waiting = self._running.get(key)
            if waiting is None:
                promise = self._running[key] = Future()
        if waiting is not None:
            return waiting.result()
        try:
            context = compute()
        except BaseException as error:
            with self._lock:
                del self._running[key]
                self._unwanted.discard(key)
            promise.set_exception(error)
            raise
        with self._lock:
            del self._running[key]
            if key in self._unwanted:
                self._unwanted.discard(key)
            else:
                self._keep(key, context)
        promise.set_result(context)
        return context

    def forget(self, beginning: bytes) -> None:
        """Drop all prompts whose key begins so, and keep none of those that are being computed."""
        with self._lock:
            for key in [key for key in self._kept if key.startswith(beginning)]:
                del self._kept[key]
            self._unwanted.update(key for key in self._running if key.startswith(beginning))

    def _keep(self, key: bytes, context: FlowContext) -> None:
        if context.nbytes > self._capacity:
            return
        self._kept[key] = context
        while sum(kept.nbytes for kept in self._kept.values()) > self._capacity:
            self._kept.popitem(last=False)
