"""Classes of the phone recogniser: the phones without stress, and the pause."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from cosyvoice.text.phones import CONSONANTS, VOWELS

PAUSE = "pau"
CLASSES = (PAUSE, *CONSONANTS, *VOWELS)
_INDEX = {name: i for i, name in enumerate(CLASSES)}


def phone_class(symbol: str) -> int:
    """Class 0..39 of a phone symbol; stress is left out, since acoustics hardly tell it."""
    return _INDEX[symbol.rstrip("01")]


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]
