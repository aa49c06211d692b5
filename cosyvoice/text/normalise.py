"""Turns written text into text that is spoken as it stands: numbers, dates, units and signs become words.

Chinese and everything else take different paths, as in the released implementation. The weighted transducers
of wetext do the reading; what they return is then tidied for the tokenizer. Results depend on the version of
wetext.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Literal

from cosyvoice.errors import MissingDependencyError
from cosyvoice.text.number_words import LARGEST, cardinal, digit_by_digit
from cosyvoice.text.split import Language

_CHINESE = re.compile("[\u4e00-\u9fff]")
_TRAILING_COMMAS = re.compile("[，,、]+$")
_ANY_POINT = re.compile(r"\.")
_POINT_BEHIND_NO_NUMBER = re.compile(r"(?<!\d)\.|\.(?!\d)")
_BRACKETS = str.maketrans("", "", "（）【】`")
# What the transducers raise where no path reads the text.
_NO_READING = (RuntimeError, ValueError, AssertionError, IndexError, KeyError)


def contains_chinese(text: str) -> bool:
    """Whether `text` holds a character of the CJK Unified Ideographs block."""
    return _CHINESE.search(text) is not None


def is_only_punctuation(text: str) -> bool:
    """Whether `text` is punctuation and symbols only; true for an empty text, false for one with a blank."""
    return all(unicodedata.category(character)[0] in "PS" for character in text)


def replace_blank(text: str) -> str:
    """Drop every blank that does not stand between two ASCII characters: Chinese is written without."""

    def is_ascii(index: int) -> bool:
        return 0 <= index < len(text) and text[index].isascii() and text[index] != " "

    return "".join(c for i, c in enumerate(text) if c != " " or (is_ascii(i - 1) and is_ascii(i + 1)))


def replace_corner_mark(text: str) -> str:
    """Superscript two and three as 平方 (square) and 立方 (cubic)."""
    return text.replace("²", "平方").replace("³", "立方")


def remove_bracket(text: str) -> str:
    """Without Chinese brackets and backticks; a Chinese dash becomes a blank."""
    return text.translate(_BRACKETS).replace("——", " ")


def spell_out_number(text: str) -> str:
    """Every run of digits in English words.

    Digits are what `str.isdigit` says, superscripts included, which count for nothing, as in the released
    implementation. A number too long to have a name is read digit by digit.
    """

    def read(digits: str) -> str:
        digits = "".join(digit for digit in digits if digit.isdecimal()) or "0"
        number = int(digits)
        return cardinal(number) if number <= LARGEST else digit_by_digit(digits)

    spoken: list[str] = []
    digits = ""
    for character in text:
        if character.isdigit():
            digits += character
            continue
        if digits:
            spoken.append(read(digits))
            digits = ""
        spoken.append(character)
    if digits:
        spoken.append(read(digits))
    return "".join(spoken)


class Normaliser:
    """Normalises text; holds the readers, which are loaded when the first text needs them.

    Args:
        frontend: `wetext` reads with the transducers, `none` only spells out numbers and tidies.
        compat: in Chinese, "released" makes a full stop of a decimal point that no reading took away.
    """

    def __init__(
        self,
        frontend: Literal["wetext", "none"] = "wetext",
        compat: Literal["corrected", "released"] = "corrected",
    ) -> None:
        self.frontend = frontend
        self._point = _ANY_POINT if compat == "released" else _POINT_BEHIND_NO_NUMBER
        self._readers: dict[Language, Any] = {}

    def __call__(self, text: str) -> tuple[str, Language]:
        """Normalised text and its language, which decides how it is split. Blanks at the ends are dropped.

        Raises:
            MissingDependencyError: wetext is not installed.
        """
        text = text.strip()
        if contains_chinese(text):
            return self._chinese(self.read(text, "zh")), "zh"
        return spell_out_number(self.read(text, "en")), "en"

    def _chinese(self, text: str) -> str:
        text = replace_corner_mark(replace_blank(text.replace("\n", "")))
        text = self._point.sub("。", text).replace(" - ", "，")
        return _TRAILING_COMMAS.sub("。", remove_bracket(text))

    def read(self, text: str, language: Language) -> str:
        if self.frontend == "none" or not text:
            return text
        if language not in self._readers:
            self._readers[language] = _load_reader(language)
        try:
            reading: str = self._readers[language].normalize(text)
        except _NO_READING:
            return text
        # wetext 0.1 puts a backslash before quotation marks; one would be spoken or end a sentence early.
        return reading if "\\" in text else reading.replace('\\"', '"')


def _load_reader(language: Language) -> Any:
    # Here and not at the top: loading takes half a second, and models that read phones never need it.
    try:
        import wetext
    except ImportError:
        raise MissingDependencyError("normalising text needs wetext; install it with: pip install wetext") from None
    return wetext.Normalizer(remove_erhua=False) if language == "zh" else wetext.Normalizer()
