"""English numbers as words, for the small model, which reads no digits.

Money, decades, ranges of years, telephone numbers, versions and numbers with thousands separators are read by
the rules here, since wetext reads them wrongly or not at all; dates, times, units, fractions and years it
reads well, so the rest goes there. Whatever digits are still left are read as plain numbers. wetext costs half a
second to import, hence it is imported when the first digit is seen.
"""

from __future__ import annotations

import re
from typing import Any

from cosyvoice.text import number_words

_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
}
_MAGNITUDES = {
    "k": "thousand", "thousand": "thousand", "m": "million", "mn": "million", "million": "million",
    "b": "billion", "bn": "billion", "billion": "billion", "tn": "trillion", "trillion": "trillion",
}  # fmt: skip
_DIGIT_NAMES = ("oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NUMBER = r"\d{1,3}(?:,\d{3})+|\d+"
_MONEY = re.compile(
    rf"([$£€¥])\s?({_NUMBER})(?:\.(\d+))?(?:\s?({'|'.join(sorted(_MAGNITUDES, key=len, reverse=True))})\b)?",
    re.IGNORECASE,
)
_CENTS = re.compile(r"(\d+)\s?¢")
_TELEPHONE = re.compile(r"(?<![\d.-])(?:\+?\d{1,2}[ -])?(?:\(\d{3}\) ?|\d{3}[-. ])?\d{3}[-.]\d{4}(?![\d-])")
_YEAR_RANGE = re.compile(r"\b(1[0-9]\d\d|20\d\d)\s?[-–]\s?(\d{4}|\d{2})\b(?!-)")
_DECADE = re.compile(r"(?:'|\b)((?:1[0-9]|20)?\d0)'?s\b")
_ORDINAL = re.compile(rf"\b({_NUMBER})(?:st|nd|rd|th)\b", re.IGNORECASE)
_VERSION = re.compile(r"(?<![\d.])\d+(?:\.\d+){2,}\b")
_HYPHENED_ORDINAL = re.compile(r"\b(\d+)(?:st|nd|rd|th)(?=-)", re.IGNORECASE)
_FIXED_READINGS = {"24/7": "twenty four seven", "9/11": "nine eleven", "911": "nine one one"}
_FIXED = re.compile(r"(?<![\d/.,-])(?:24/7|9/11|911)(?![\d/]|[.,-]\d)")
_UNIT_AHEAD = r"\s?(?:[kcmµ]?[mglWVA]|[kMGT]?(?:B|Hz|W)|km/h|lbs?|oz|ft|in|mi|mph|kph|[°%])(?![a-z])"
_FEET_INCHES = re.compile(r"\b(\d)'\s?(\d{1,2})(?:\"|'')")
# wetext takes the m of "1500 m" for minutes.
_METRES = re.compile(r"(\d)\s?m(?![\w/²])")
_GROUPED_UNIT = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:,\d{{3}})+(?={_UNIT_AHEAD})")
_GROUPED = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)(?:\.(\d+))?(?![\d,]*\d)")
_LONG = re.compile(rf"(?<![\d.,:/-])(\d{{4,}})(?![\d:/-]|[.,]\d|{_UNIT_AHEAD})")
_DECIMAL = re.compile(r"\d+(?:\.\d+)?")
_DATE_BEFORE_YEAR = re.compile(r"(?<=[a-z]), (?=(?:nineteen|twenty|two thousand|eighteen|seventeen|sixteen)\b)")
_LONGEST_YEAR = 4
_LAST_YEAR = 2100


class EnglishNumbers:
    """Rewrites digits as words; holds wetext's reader, which is made at the first text with a digit."""

    def __init__(self) -> None:
        self._wetext: Any = None

    def expand(self, text: str) -> str:
        """`text` with every digit, and the signs that belong to numbers, as words; no digit is left."""
        if not re.search(r"\d", text):
            return text
        text = _FEET_INCHES.sub(r"\1 foot \2", _METRES.sub(r"\1 meters", text.replace("#", " number ")))
        for pattern, reading in (
            (_MONEY, self._money),
            (
                _CENTS,
                lambda match: f"{self.cardinal(int(match[1]))} {'cent' if match[1] == '1' else 'cents'}",
            ),
            (_TELEPHONE, lambda match: _digit_groups(match[0])),
            (
                _VERSION,
                self._version,
            ),
            (_FIXED, lambda match: _FIXED_READINGS[match[0]]),
            (_HYPHENED_ORDINAL, lambda match: self.ordinal(int(match[1]))),
            (_YEAR_RANGE, self._year_range),
            (_DECADE, self._decade),
            (_GROUPED_UNIT, lambda match: match[0].replace(",", "")),
            (_GROUPED, lambda match: self._decimal(match[1], match[2])),
            (_LONG, self._long_number),
        ):
            text = pattern.sub(reading, text)
        text = self._wetext_reading(text)
        text = _ORDINAL.sub(lambda match: self.ordinal(_integer(match[1])), text)
        return _DECIMAL.sub(lambda match: f" {self._decimal(*match[0].partition('.')[::2])} ", text)

    def cardinal(self, number: int) -> str:
        """`1200` as 'one thousand two hundred'."""
        return _plain_words(number_words.cardinal(number, conjunction=""))

    def ordinal(self, number: int) -> str:
        """`21` as 'twenty first'."""
        return _plain_words(number_words.ordinal(number, conjunction=""))

    def year(self, number: int) -> str:
        """`1905` as 'nineteen oh five', `2005` as 'two thousand five', `1800` as 'eighteen hundred'."""
        century, rest = divmod(number, 100)
        if century % 10 == 0 and rest < 10:
            return self.cardinal(number)
        if rest == 0:
            return f"{self.cardinal(century)} hundred"
        return f"{self.cardinal(century)} {'oh ' if rest < 10 else ''}{self.cardinal(rest)}"

    def _wetext_reading(self, text: str) -> str:
        """wetext's reading; its tagger refuses some signs, so text is halved until one word is left as is."""
        if not re.search(r"\d", text):
            return text
        if self._wetext is None:
            from wetext import Normalizer

            self._wetext = Normalizer(lang="en", operator="tn")
        try:
            read = str(self._wetext.normalize(text))
        except AssertionError:
            words = text.split(" ")
            middle = len(words) // 2
            if not middle:
                return text
            return " ".join(self._wetext_reading(" ".join(part)) for part in (words[:middle], words[middle:]))
        return _DATE_BEFORE_YEAR.sub(" ", read.replace("\\", ""))

    def _money(self, match: re.Match[str]) -> str:
        one, many, small_one, small_many = _CURRENCIES[match[1]]
        whole, fraction, magnitude = match[2], match[3], match[4]
        if magnitude:
            return f"{self._decimal(whole, fraction)} {_MAGNITUDES[magnitude.lower()]} {many}"
        if fraction is not None and len(fraction) != 2:
            return f"{self._decimal(whole, fraction)} {many}"
        units, cents = _integer(whole), int(fraction or 0)
        large = f"{self.cardinal(units)} {one if units == 1 else many}"
        small = f"{self.cardinal(cents)} {small_one if cents == 1 else small_many}"
        if not cents:
            return large
        return f"{large} and {small}" if units else small

    def _decimal(self, whole: str, fraction: str | None) -> str:
        words = self.cardinal(_integer(whole))
        if not fraction:
            return words
        return f"{words} point {' '.join(self.cardinal(int(digit)) for digit in fraction)}"

    def _version(self, match: re.Match[str]) -> str:
        return f" {' point '.join(self.cardinal(int(part)) for part in match[0].split('.'))} "

    def _year_range(self, match: re.Match[str]) -> str:
        first, last = match[1], match[2]
        if len(last) == _LONGEST_YEAR and int(last) <= int(first):
            return match[0]
        end = self.year(int(last)) if len(last) == _LONGEST_YEAR else self.cardinal(int(last))
        return f"{self.year(int(first))} to {end}"

    def _decade(self, match: re.Match[str]) -> str:
        number = int(match[1])
        words = self.cardinal(number) if number < 100 or number == 2000 else self.year(number)
        return words.removesuffix("y") + "ies" if words.endswith("y") else words + "s"

    def _long_number(self, match: re.Match[str]) -> str:
        """Four digits below 2100 are a year; after a leading 0, digits are read one by one."""
        digits = match[1]
        if digits.startswith("0"):
            return _digit_groups(digits)
        if len(digits) == _LONGEST_YEAR and int(digits) < _LAST_YEAR:
            return self.year(int(digits))
        return self.cardinal(int(digits))


def _digit_groups(text: str) -> str:
    """Digits one by one, with a comma where the number is grouped."""
    groups = re.findall(r"\d+", text)
    return ", ".join(" ".join(_DIGIT_NAMES[int(digit)] for digit in group) for group in groups)


def _integer(digits: str) -> int:
    return int(digits.replace(",", ""))


def _plain_words(words: str) -> str:
    return words.replace(",", "").replace("-", " ")
