"""Text as it is scored: two transcripts of the same speech become the same words.

These rules are part of every published number, so they are our own and pinned by `NORMALISER_VERSION`:
neither a newer library nor a change of the speech frontend can move a score.
"""

from __future__ import annotations

import re
import unicodedata

NORMALISER_VERSION = "1"
"""Raised whenever a rule changes; scores of different versions must not be compared."""

_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["_", "_", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))
_LARGEST = 10**12
_IRREGULAR_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
_SPELLINGS = {
    "mr": "mister", "mrs": "missus", "dr": "doctor", "ok": "okay", "grey": "gray", "neighbour": "neighbor",
    "neighbours": "neighbors", "colour": "color", "colours": "colors", "favourite": "favorite",
}  # fmt: skip
_GROUPED = re.compile(r"(?<![\d,])(\d{1,3}(?:,\d{3})+)(?![\d,]*\d)")
_MONEY = re.compile(r"\$(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d\d))?(?!\d)")
_CLOCK = re.compile(r"\b(\d{1,2}):(\d\d)\b")
_ORDINAL = re.compile(r"\b(\d+)(?:st|nd|rd|th)\b")
_DECIMAL = re.compile(r"(\d+)\.(\d+)")


def cardinal(number: int) -> str:
    """`1205` as 'one thousand two hundred five'; without 'and', without hyphens. At most twelve digits are
    read.
    """
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _TENS[tens] + (f" {_SMALL[rest]}" if rest else "")
    size, name = next((size, name) for size, name in _SCALES if number >= size)
    count, rest = divmod(number, size)
    return f"{cardinal(count)} {name}" + (f" {cardinal(rest)}" if rest else "")


def ordinal(number: int) -> str:
    """`21` as 'twenty first'."""
    *before, last = cardinal(number).split()
    if last in _IRREGULAR_ORDINALS:
        last = _IRREGULAR_ORDINALS[last]
    else:
        last = last.removesuffix("y") + "ieth" if last.endswith("y") else last + "th"
    return " ".join([*before, last])


def normalise_for_scoring(text: str) -> list[str]:
    """The words of `text`: lower case, digits as words, no punctuation but the apostrophe inside a word.

    Numbers of four digits from 1100 to 2099 are read as years (`1905` as 'nineteen oh five', `2005` as 'two
    thousand five'); digits behind a leading zero one by one.
    """
    text = unicodedata.normalize("NFKC", text).replace("’", "'").replace("‘", "'").lower()
    text = text.replace("&", " and ").replace("%", " percent ")
    if re.search(r"\d", text):
        text = _numbers_as_words(text)
    # Accents are dropped after NFKC, for a recogniser's dictionary has none.
    text = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    words = (word.strip("'") for word in re.sub(r"[^a-z']+", " ", text).split())
    return [_SPELLINGS.get(word, word) for word in words if word]


def _numbers_as_words(text: str) -> str:
    text = _MONEY.sub(_money, text)
    text = _GROUPED.sub(lambda m: _spaced(_whole(m[1].replace(",", ""))), text)
    text = _CLOCK.sub(_clock, text)
    text = _ORDINAL.sub(lambda m: _spaced(ordinal(int(m[1])) if int(m[1]) < _LARGEST else _digits(m[1])), text)
    text = _DECIMAL.sub(lambda m: _spaced(f"{_whole(m[1])} point {_digits(m[2])}"), text)
    return re.sub(r"\d+", lambda m: _spaced(_plain(m[0])), text)


def _spaced(words: str) -> str:
    return f" {words} "


def _digits(text: str) -> str:
    return " ".join(_SMALL[int(digit)] for digit in text)


def _whole(text: str) -> str:
    return cardinal(int(text)) if int(text) < _LARGEST else _digits(text)


def _plain(text: str) -> str:
    number = int(text)
    if len(text) > 1 and text[0] == "0":
        return _digits(text)
    if len(text) == 4 and (1100 <= number <= 1999 or 2010 <= number <= 2099):
        century, rest = divmod(number, 100)
        if rest == 0:
            return f"{cardinal(century)} hundred"
        return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"
    return _whole(text)


def _money(match: re.Match[str]) -> str:
    dollars, cents = int(match[1].replace(",", "")), int(match[2] or 0)
    parts = [f"{_whole(str(dollars))} {'dollar' if dollars == 1 else 'dollars'}"] if dollars or not cents else []
    if cents:
        parts.append(f"{cardinal(cents)} {'cent' if cents == 1 else 'cents'}")
    return _spaced(" and ".join(parts))


def _clock(match: re.Match[str]) -> str:
    hour, minute = cardinal(int(match[1])), int(match[2])
    if minute == 0:
        return _spaced(f"{hour} o'clock")
    return _spaced(f"{hour} {'oh ' if minute < 10 else ''}{cardinal(minute)}")
