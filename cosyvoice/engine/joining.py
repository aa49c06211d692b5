"""Pieces of a text joined into one signal: no clicks, no long silence at their edges, a short pause between
them.

Trimming needs to know what follows, so trailing silence is held back until sound comes or the piece ends.
What is given out in total depends on the samples alone, never on how they were cut into chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosyvoice.engine.stages import FloatArray


@dataclass(frozen=True)
class Joining:
    """Lengths in seconds."""

    silence: float = 0.003
    """Samples below this absolute value (-50 dB) count as silence."""
    head: float = 0.08
    """Silence left before the first sound of a piece."""
    tail: float = 0.12
    """Silence left after the last sound of a piece."""
    fade: float = 0.004
    """Fade at both edges of a piece."""
    sentence_pause: float = 0.2
    clause_pause: float = 0.08

    def pause_after(self, text: str) -> float:
        """Seconds of silence between a piece that reads `text` and the next one."""
        return self.sentence_pause if text.rstrip(" \"'”’)]").endswith(tuple(".?!。？！")) else self.clause_pause


class PieceEdges:
    """Trims and fades one piece while it streams through. A piece without any sound passes as it is."""

    def __init__(self, joining: Joining, sample_rate: int) -> None:
        self._silence = joining.silence
        self._head = int(joining.head * sample_rate)
        self._tail = int(joining.tail * sample_rate)
        self._fade = int(joining.fade * sample_rate)
        self._held = np.zeros(0, np.float32)
        self._sounded = False
        self._given = 0

    def push(self, samples: FloatArray) -> FloatArray:
        """Samples that can be given out now that `samples` [time] have come."""
        self._held = np.concatenate([self._held, samples])
        sounds = np.flatnonzero(np.abs(self._held) >= self._silence)
        if sounds.size == 0:
            return self._give(0)
        if not self._sounded:
            self._sounded = True
            dropped = max(int(sounds[0]) - self._head, 0)
            self._held, sounds = self._held[dropped:], sounds - dropped
        # The fade at the end will need the last samples before it.
        return self._give(max(int(sounds[-1]) + 1 - self._fade, 0))

    def finish(self) -> FloatArray:
        """The rest of the piece."""
        sounds = np.flatnonzero(np.abs(self._held) >= self._silence)
        if self._sounded:
            # Held back is at most the fade and the silence behind it, whose first sample is below the
            # threshold.
            last = int(sounds[-1]) + 1 if sounds.size else 0
            self._held = self._held[: last + self._tail]
        count = min(self._fade, len(self._held))
        if count:
            self._held = self._held.copy()
            self._held[-count:] *= np.linspace(1.0, 0.0, count, dtype=np.float32)
        return self._give(len(self._held))

    def _give(self, count: int) -> FloatArray:
        output, self._held = self._held[:count].copy(), self._held[count:]
        faded = np.arange(self._given, min(self._given + count, self._fade))
        if faded.size:
            output[: faded.size] *= (faded / self._fade).astype(np.float32)
        self._given += count
        return output


def silence(seconds: float, sample_rate: int) -> FloatArray:
    """`seconds` of silence [time]."""
    return np.zeros(int(seconds * sample_rate), np.float32)
