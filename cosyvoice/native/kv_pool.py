"""Key-value buffers of all running sequences, in one block of memory a layer.

The sequences lie side by side, so any neighbouring ones are one batch without a copy: the graph is bound to the
addresses. Freed places are closed by moving the last sequence into them. Memory that no sequence has reached yet is
only reserved: the system gives it out when it is first written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosyvoice.errors import ConfigError, GenerationError
from cosyvoice.native.memory import mapped

_WIDTH_MULTIPLE = 8


@dataclass(eq=False)
class Sequence:
    """One request's place in the pool."""

    slot: int = -1
    """-1 before the first run, and after the release."""
    length: int = 0
    """Positions that are valid."""
    released: bool = False
    served_at: float = -math.inf
    pause: float = math.inf


def buffer_width(head_dim: int) -> int:
    """Channels of a head of `head_dim` in the buffers: fused attention takes multiples of 8."""
    return -(-head_dim // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE


class KVPool:
    """Buffers [slots, kv_heads, capacity, width] of every layer; not safe from several threads at once.

    Args:
        layers: of the decoder.
        heads: with keys and values of their own.
        head_dim: channels of a head; see `buffer_width`.
        slots: sequences that fit before the buffers grow, up to `max_slots`.
        capacity: positions of a sequence that fit before the buffers grow, up to `max_capacity`.
    """

    def __init__(
        self, layers: int, heads: int, head_dim: int, slots: int, max_slots: int, capacity: int, max_capacity: int
    ) -> None:
        if not 1 <= slots <= max_slots or not 1 <= capacity <= max_capacity:
            raise ConfigError(
                f"{slots} of {max_slots} slots with {capacity} of {max_capacity} positions cannot be; "
                "each must be at least 1 and at most its limit"
            )
        self._layers, self._heads, self._width = layers, heads, buffer_width(head_dim)
        self._max_slots, self._max_capacity = max_slots, max_capacity
        self.buffers = self._allocate(slots, capacity)
        self.sequences: list[Sequence] = []
        """By slot; no gaps after `compact`."""
        self.generation = 0
        """Counts the reallocations: addresses of an earlier generation are void."""

    @property
    def slots(self) -> int:
        return int(self.buffers.shape[1])

    @property
    def capacity(self) -> int:
        """Positions of a sequence that fit before the buffers grow."""
        return int(self.buffers.shape[3])

    def place(self, sequence: Sequence) -> None:
        """Give `sequence` a slot. Raises `GenerationError` where `max_slots` sequences are running."""
        if len(self.sequences) == self._max_slots:
            raise GenerationError(
                f"{self._max_slots} requests are running already; wait until one has ended, or load the model with "
                "more slots"
            )
        if len(self.sequences) == self.slots:
            self._grow(min(2 * self.slots, self._max_slots), self.capacity)
        sequence.slot = len(self.sequences)
        self.sequences.append(sequence)

    def check(self, positions: int) -> None:
        """Raise `GenerationError` where a sequence of `positions` can never fit."""
        if positions > self._max_capacity:
            raise GenerationError(
                f"a sequence of {positions} positions is longer than the {self._max_capacity} that are allowed; "
                "split the text into shorter pieces, or load the model with a larger capacity"
            )

    def reserve(self, positions: int) -> None:
        """Make every sequence able to hold `positions`: as many as `check` accepts, and one more to spare."""
        capacity = self.capacity
        while capacity < positions:
            capacity = min(2 * capacity, self._max_capacity + 1)
        if capacity > self.capacity:
            self._grow(self.slots, capacity)

    def compact(self) -> None:
        """Drop released sequences, and move others into their places."""
        for slot in reversed(range(len(self.sequences))):
            if self.sequences[slot].released:
                self.sequences[slot].slot = -1
                last = self.sequences.pop()
                if slot < len(self.sequences):
                    self.buffers[:, slot, :, : last.length] = self.buffers[:, last.slot, :, : last.length]
                    last.slot = slot
                    self.sequences[slot] = last

    def addresses(self, slot: int) -> list[int]:
        """Where the keys and values of `slot` begin, by layer: key 0, value 0, key 1, ..."""
        return [
            int(self.buffers.ctypes.data + index * self.buffers.strides[0] + slot * self.buffers.strides[1])
            for index in range(len(self.buffers))
        ]

    def _allocate(self, slots: int, capacity: int) -> NDArray[np.float32]:
        shape = (2 * self._layers, slots, self._heads, capacity, self._width)
        try:
            return mapped(4 * math.prod(shape)).view(np.float32).reshape(shape)
        except (MemoryError, OSError, OverflowError):
            raise GenerationError(
                f"out of memory for {slots} sequences of {capacity} positions; speak shorter pieces, or fewer at once"
            ) from None

    def _grow(self, slots: int, capacity: int) -> None:
        grown = self._allocate(slots, capacity)
        for sequence in self.sequences:
            slot, length = sequence.slot, sequence.length
            grown[:, slot, :, :length] = self.buffers[:, slot, :, :length]
        self.buffers = grown
        self.generation += 1
