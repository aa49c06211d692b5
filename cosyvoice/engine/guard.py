"""Notices when generation has gone wrong, so that it can be tried again with other random numbers.

An autoregressive model fails in a few recognisable ways: it does not stop, it stops far too early, it repeats
itself, it falls silent, or it leaves out words. How long a piece should be is estimated from its phones, at the pace of
the reference where its transcript is known. Most faults are found while tokens arrive, so a runaway costs no more than
its limit; words that are missing are found by a recogniser that reads the tokens before they become sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from cosyvoice.engine.stages import FloatArray

_FITS_ANYWHERE = 2
"""Phones of a word that is heard by chance where others are missing."""


class Fault(str, Enum):
    """What went wrong with a piece."""

    RUNAWAY = "runaway"
    STARVATION = "starvation"
    REPETITION = "repetition"
    SILENCE = "silence"
    OMISSION = "omission"


@dataclass(frozen=True)
class LengthLimits:
    """What length of a piece is believed, around the expected one."""

    shortest: float
    """Lower limit, times the expected length."""
    longest: float
    """Upper limit, times the expected length."""
    slack_seconds: float
    """Added to the upper limit: pauses and single words take their time."""


@dataclass(frozen=True)
class Guard:
    """Limits of what is taken for speech; `retries=0` turns repeated attempts off."""

    retries: int = 3
    seconds_per_phone: float = 0.085
    """Pace that is assumed where the reference does not tell it."""
    length: LengthLimits = LengthLimits(shortest=0.5, longest=1.5, slack_seconds=0.4)
    """Where the pace of the reference is known."""
    guessed_length: LengthLimits = LengthLimits(shortest=0.45, longest=2.0, slack_seconds=1.0)
    """Where it is assumed."""
    longest_period: int = 12
    """Tokens of the longest sequence whose immediate repetition is looked for."""
    repeated_seconds: float = 1.2
    """A repetition counts from this length, and from four rounds."""
    silence_seconds: float = 1.5
    """Longest silence inside a piece."""
    silence_level: float = 0.001
    """-60 dB of full scale."""
    unheard_score: float = 0.15
    """Mean probability of a word's phones below which it is not heard. Scores lie near 0 or near 1."""
    unheard_phones: int = 8
    """Phones of words in a row that are not heard, from which they count as left out: two or three words."""

    def expected_seconds(self, phones: int, pace: float | None = None) -> float:
        """Likely length of `phones` phones at `pace` seconds a phone."""
        # A reference with long pauses, or a transcript that fits badly, must not make the limits meaningless.
        pace = self.seconds_per_phone if pace is None else min(max(pace, 0.05), 0.15)
        return phones * pace

    def watch(self, phones: int, pace: float | None, token_rate: float) -> TokenWatch:
        """A watch over the tokens of one attempt at `phones` phones.

        `pace` is that of the reference in seconds a phone, None where it is not known; `token_rate` is in tokens
        a second.
        """
        limits = self.guessed_length if pace is None else self.length
        return TokenWatch(self, limits, self.expected_seconds(phones, pace), token_rate)

    def omission(self, words: Sequence[Sequence[str]], scores: Sequence[float]) -> Fault | None:
        """Words in a row that were left out; `scores` are those of `words`, each given as its phones."""
        missing = 0
        for word, score in zip(words, scores, strict=True):
            if score < self.unheard_score:
                missing += len(word)
            elif len(word) > _FITS_ANYWHERE:
                missing = 0
            if missing >= self.unheard_phones:
                return Fault.OMISSION
        return None

    def audio_fault(self, samples: FloatArray, sample_rate: int) -> Fault | None:
        """A long silence inside the finished samples [time] of a piece."""
        loud = np.flatnonzero(np.abs(samples) >= self.silence_level)
        if loud.size == 0:
            return Fault.SILENCE
        longest = int(np.diff(loud).max()) if loud.size > 1 else 0
        return Fault.SILENCE if longest > self.silence_seconds * sample_rate else None


class TokenWatch:
    """Follows the tokens of one attempt."""

    def __init__(self, guard: Guard, limits: LengthLimits, expected_seconds: float, token_rate: float) -> None:
        self.expected = max(round(expected_seconds * token_rate), 1)
        longest = limits.longest * expected_seconds + limits.slack_seconds
        self.limit = int(longest * token_rate) + 1
        """Tokens after which an attempt is a runaway."""
        self._shortest = int(limits.shortest * expected_seconds * token_rate)
        self._longest_period = guard.longest_period
        self._repeated = int(guard.repeated_seconds * token_rate)
        self._tokens: list[int] = []
        # For each period, how many of the last tokens equal the one a period before.
        self._matches = [0] * (guard.longest_period + 1)

    def push(self, token: int) -> Fault | None:
        """The fault that shows with `token`, if one does."""
        self._tokens.append(token)
        if len(self._tokens) >= self.limit:
            return Fault.RUNAWAY
        for period in range(1, min(self._longest_period, len(self._tokens) - 1) + 1):
            same = self._tokens[-1 - period] == token
            self._matches[period] = self._matches[period] + 1 if same else 0
            if self._matches[period] >= max(self._repeated, 3 * period):
                return Fault.REPETITION
        return None

    def finish(self) -> Fault | None:
        """The fault that shows when the model has stopped by itself."""
        return Fault.STARVATION if len(self._tokens) < self._shortest or not self._tokens else None


def distance(tokens: Sequence[int], expected: int) -> float:
    """How far the length of an attempt is from the expected one, as a factor on a log scale."""
    return abs(float(np.log(max(len(tokens), 1) / expected)))
