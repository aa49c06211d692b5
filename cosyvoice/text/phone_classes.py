"""Classes of the phone recogniser: the phones without stress, and the pause. Acoustics hardly tell stress."""

from __future__ import annotations

from cosyvoice.text.phones import CONSONANTS, VOWELS

PAUSE = "pau"
CLASSES = (PAUSE, *CONSONANTS, *VOWELS)
_INDEX = {name: i for i, name in enumerate(CLASSES)}


def phone_class(symbol: str) -> int:
    """Class 0..39 of a phone symbol; stress is left out."""
    return _INDEX[symbol.rstrip("01")]
