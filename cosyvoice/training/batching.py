"""Batches of utterances of like length, in an order that depends on the seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def pad(arrays: Sequence[np.ndarray], multiple: int = 1, value: float = 0.0) -> Tensor:
    """Stack arrays [time, ...] into [batch, longest, ...], the length rounded up to `multiple`.

    Rounding bounds the number of shapes, since the CPU's matrix library plans anew for each.
    """
    longest = -(-max(len(a) for a in arrays) // multiple) * multiple
    first = np.asarray(arrays[0])
    out = np.full((len(arrays), longest, *first.shape[1:]), value, dtype=first.dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    tensor = torch.from_numpy(out)
    return tensor.float() if tensor.dtype in (torch.float16, torch.float64) else tensor


@dataclass
class LengthBatches:
    """Groups items so that each batch holds about `budget` frames, padding included.

    Every epoch sorts a fresh shuffle within windows, cuts it into batches and shuffles those.
    """

    lengths: Sequence[int]
    budget: int
    seed: int

    def __post_init__(self) -> None:
        self._epoch = -1
        self._batches: list[list[int]] = []
        self._starts: list[int] = [0]

    def _make_epoch(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        lengths = np.asarray(self.lengths)
        # A little noise on the length mixes the batches from one epoch to the next.
        order = np.argsort(lengths * rng.uniform(0.9, 1.1, len(lengths)), kind="stable")
        batches: list[list[int]] = []
        current: list[int] = []
        longest = 0
        for item in order.tolist():
            longest = max(longest, int(lengths[item]))
            if current and longest * (len(current) + 1) > self.budget:
                batches.append(current)
                current, longest = [], int(lengths[item])
            current.append(item)
        batches.append(current)
        return [batches[i] for i in rng.permutation(len(batches))]

    def batch(self, step: int) -> list[int]:
        """The items of step `step` (0, 1, ...)."""
        epoch = self._epoch
        while epoch < 0 or step >= self._starts[epoch + 1]:
            epoch += 1
            self._batches = self._make_epoch(epoch)
            if epoch + 1 == len(self._starts):
                self._starts.append(self._starts[epoch] + len(self._batches))
        if step < self._starts[epoch]:
            epoch = next(e for e in range(len(self._starts)) if step < self._starts[e + 1])
            self._batches = self._make_epoch(epoch)
        self._epoch = epoch
        return self._batches[step - self._starts[epoch]]
