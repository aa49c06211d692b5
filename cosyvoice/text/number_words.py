"""Whole numbers in English words: cardinals and ordinals, with or without the "and" of British reading."""

from __future__ import annotations

import re

_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_THOUSANDS = (
    "", "thousand", "million", "billion", "trillion", "quadrillion", "quintillion", "sextillion", "septillion",
    "octillion", "nonillion", "decillion",
)  # fmt: skip
_IRREGULAR_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
LARGEST = 1000 ** len(_THOUSANDS) - 1
"""Greatest number that has a name here."""


def cardinal(number: int, conjunction: str = "and") -> str:
    """`12345` as 'twelve thousand, three hundred and forty-five'.

    `conjunction` stands behind hundreds, and before a rest below a hundred; "" leaves it out. Numbers above `LARGEST`
    are read digit by digit. `number` must not be negative.
    """
    if number > LARGEST:
        return digit_by_digit(str(number))
    link = f" {conjunction} " if conjunction else " "
    groups: list[tuple[int, str]] = []
    rest = number
    for name in _THOUSANDS:
        rest, group = divmod(rest, 1000)
        if group:
            groups.insert(0, (group, name))
    if not groups:
        return _SMALL[0]
    words = ", ".join(f"{_below_thousand(group, link)} {name}".strip() for group, name in groups[:-1])
    group, name = groups[-1]
    last = f"{_below_thousand(group, link)} {name}".strip()
    if not words:
        return last
    return f"{words}{link if group < 100 and not name else ', '}{last}"


def ordinal(number: int, conjunction: str = "and") -> str:
    """`21` as 'twenty-first'; see `cardinal`."""
    words = cardinal(number, conjunction)
    last = re.split("[ -]", words)[-1]
    stem = words.removesuffix(last)
    if last in _IRREGULAR_ORDINALS:
        return stem + _IRREGULAR_ORDINALS[last]
    return stem + (last[:-1] + "ieth" if last.endswith("y") else last + "th")


def digit_by_digit(digits: str) -> str:
    """`907` as 'nine, zero, seven'; digits of any script that has decimal ones."""
    return ", ".join(_SMALL[int(digit)] for digit in digits)


def _below_thousand(number: int, link: str) -> str:
    hundreds, rest = divmod(number, 100)
    tens = _below_hundred(rest) if rest else ""
    if not hundreds:
        return tens
    return f"{_SMALL[hundreds]} hundred{link + tens if tens else ''}"


def _below_hundred(number: int) -> str:
    if number < len(_SMALL):
        return _SMALL[number]
    tens, ones = divmod(number, 10)
    return f"{_TENS[tens]}-{_SMALL[ones]}" if ones else _TENS[tens]
