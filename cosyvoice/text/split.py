"""Cuts normalised text into pieces of a length the language model speaks well.

The text is cut behind every run of punctuation marks and the sentences are packed greedily. The released
implementation loses a mark that directly follows another one ("What?!" becomes "What?"), which `keep_marks` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from cosyvoice.errors import TextError

Language = Literal["zh", "en"]

_STOPS: dict[Language, str] = {"zh": "。？！；：、.?!;", "en": ".?!;:"}
_FULL_STOP: dict[Language, str] = {"zh": "。", "en": "."}
_COMMAS = "，,"
_CLOSING_QUOTES = '"”'


def cut_sentences(text: str, language: Language, comma_split: bool = False, keep_marks: bool = True) -> list[str]:
    """Sentences of `text`, each with its marks and a closing quotation mark that follows.

    A full stop is added where the text ends without a mark. `comma_split` cuts at commas too. Without `keep_marks`, a
    mark directly behind another one is lost, and a number is cut at its decimal point.

    Raises:
        TextError: the text is empty.
    """
    if not text:
        raise TextError("the text is empty; give at least one word")
    stops = _STOPS[language] + (_COMMAS if comma_split else "")
    spoken = text.rstrip(_CLOSING_QUOTES) if keep_marks else text
    if spoken[-1:] not in stops or not spoken:
        text += _FULL_STOP[language]
    return _cut(text, stops) if keep_marks else _cut_and_lose_marks(text, stops)


def _cut(text: str, stops: str) -> list[str]:
    sentences: list[str] = []
    start = index = 0
    while index < len(text):
        if text[index] not in stops or _is_decimal_point(text, index):
            index += 1
            continue
        while index < len(text) and text[index] in stops:
            index += 1
            if index < len(text) and text[index] in _CLOSING_QUOTES:
                index += 1
        sentences.append(text[start:index])
        start = index
    return sentences + ([text[start:]] if start < len(text) else [])


def _is_decimal_point(text: str, index: int) -> bool:
    return (
        text[index] == "." and text[max(0, index - 1) : index].isdecimal() and text[index + 1 : index + 2].isdecimal()
    )


def _cut_and_lose_marks(text: str, stops: str) -> list[str]:
    sentences: list[str] = []
    start = 0
    for index, character in enumerate(text):
        if character not in stops:
            continue
        if index > start:
            sentences.append(text[start : index + 1])
        start = index + 1
        if sentences and start < len(text) and text[start] in _CLOSING_QUOTES:
            sentences[-1] += text[start]
            start += 1
    return sentences


def split_paragraph(
    text: str,
    tokenize: Callable[[str], Sequence[object]],
    language: Language = "zh",
    *,
    token_max_n: int = 80,
    token_min_n: int = 60,
    merge_len: int = 20,
    comma_split: bool = False,
    keep_marks: bool = True,
) -> list[str]:
    """Pieces of `text`: sentences packed until one more would exceed `token_max_n`.

    Length counts characters in Chinese and tokens in English. A last piece shorter than `merge_len` joins the
    one before.

    Args:
        text: normalised text.
        tokenize: text to tokens; only their number matters.
        language: whose punctuation and length measure to use.
        token_max_n: flush before a piece grows beyond this length,
        token_min_n: unless it is not longer than this.
        merge_len: the shortest last piece that may stand alone.
        comma_split: cut at commas too.
        keep_marks: see `cut_sentences`.

    Raises:
        TextError: the text is empty.
    """

    def length(piece: str) -> int:
        return len(piece) if language == "zh" else len(tokenize(piece))

    pieces: list[str] = []
    current = ""
    for sentence in cut_sentences(text, language, comma_split, keep_marks):
        if current and length(current + sentence) > token_max_n and length(current) > token_min_n:
            pieces.append(current)
            current = ""
        current += sentence
    if current and pieces and length(current) < merge_len:
        pieces[-1] += current
    elif current:
        pieces.append(current)
    return pieces
