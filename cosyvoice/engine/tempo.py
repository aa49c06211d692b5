"""Faster and slower speech, by linear interpolation of the mel along time, for a whole utterance or in
chunks.

Output frame i lies at position (i + 0.5) * step - 0.5 of the input, limited to its ends. The released
implementation takes step = T / int(T / speed) of the whole utterance of T frames; a stream does not know T
and takes step = speed, which differs by less than one frame over the utterance.
"""

from __future__ import annotations

import math

import numpy as np

from cosyvoice.engine.stages import FloatArray
from cosyvoice.errors import ConfigError

SLOWEST, FASTEST = 0.25, 4.0
"""What OpenAI's API allows; from half to double is what sounds natural."""


def check_speed(speed: float) -> float:
    """`speed` itself; raises `ConfigError` outside of 0.25 to 4."""
    if not SLOWEST <= speed <= FASTEST:
        raise ConfigError(f"the speed {speed:g} is out of range; choose one from {SLOWEST:g} to {FASTEST:g}")
    return speed


def stretch(mel: FloatArray, speed: float) -> FloatArray:
    """The whole of `mel` [frames, n_mels] at `speed`, [int(frames / speed), n_mels]; at least one frame."""
    if speed == 1.0 or len(mel) == 0:
        return mel
    count = max(int(len(mel) / speed), 1)
    return _interpolate(mel, 0, 0, count, len(mel) / count, len(mel))


class MelStretcher:
    """The same for an utterance that comes in chunks: the output does not depend on where they were cut."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._kept: FloatArray | None = None
        self._first = 0
        self._seen = 0
        self._given = 0

    def push(self, mel: FloatArray, finalize: bool) -> FloatArray:
        """Output frames that the new frames `mel` [frames, n_mels] complete."""
        if self._speed == 1.0:
            return mel
        self._kept = mel if self._kept is None else np.concatenate([self._kept, mel])
        self._seen += len(mel)
        # Both neighbours of an output frame must be there: (i + 0.5) * speed - 0.5 < seen - 1.
        end = math.ceil((self._seen - 0.5) / self._speed - 0.5)
        if finalize:
            end = max(int(self._seen / self._speed), 1)
        count = max(end - self._given, 0)
        output = _interpolate(self._kept, self._first, self._given, count, self._speed, self._seen)
        self._given += count
        # The next output frame needs nothing before its left neighbour.
        unneeded = max(math.floor((self._given + 0.5) * self._speed - 0.5), 0) - self._first
        unneeded = min(max(unneeded, 0), len(self._kept))
        self._kept, self._first = self._kept[unneeded:], self._first + unneeded
        return output


def _interpolate(mel: FloatArray, first: int, start: int, count: int, step: float, frames: int) -> FloatArray:
    """Output frames `start` to `start + count`; `mel` holds the input from frame `first` to `frames`."""
    position = np.clip((np.arange(start, start + count) + 0.5) * step - 0.5, 0.0, frames - 1)
    left = np.floor(position).astype(np.int64)
    right = np.minimum(left + 1, frames - 1)
    weight = (position - left).astype(np.float32)[:, None]
    return mel[left - first] * (1 - weight) + mel[right - first] * weight
