"""Cuts long text into pieces whose spoken length a small model was trained on.

Text is cut only as far as it must be: a sentence that fits stays whole, one that does not is cut at its
commas, a clause that still does not fit before its conjunctions, and the rest between words. What was cut
apart is joined again, neighbour by neighbour, as long as it fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate, pairwise

from cosyvoice.text.english_words import ends_with_abbreviation

# "No. 5" ends no sentence, "He said no. She left" does.
_SENTENCE_END = re.compile(r"(?<=[.?!])[\"')\]]*(?:(?<!\b[Nn]o\.)\s+(?=\S)|\s+(?=[^\s\d]))|\n\s*\n")
# A comma before four digits may stand within a date.
_CLAUSE_END = re.compile(r"(?<=[,;:])[\"')]*\s+(?!\d{4}\b)|\s+(?=[-–—]\s)|(?<=[—])(?=\w)")
_CONJUNCTION = re.compile(
    r"(?<!\d)\s+(?=(?:and|but|or|nor|so|yet|because|although|though|while|when|where|which|who|that|if|unless"
    r"|until|since|before|after|as|than|with|without|for|from|into|about)\b)",
    re.IGNORECASE,
)
# Between two numbers only where the second is no group of thousands, and never within a date.
_SPACE = re.compile(r"(?<!\d)(?<!\d,)\s+|\s+(?!\d)|(?<=\d)\s+(?!\d{3}\b)")
_WITHIN_TAG = re.compile(r"\[[^\]]*$")

Length = Callable[[str], int]


def split_pieces(text: str, length: Length, longest: int, shortest: int) -> list[str]:
    """Pieces of `text` of length at most `longest`, as `length` measures; those below `shortest` are joined.

    A piece that ends within a sentence, where no mark stands, gets a comma, so that its voice does not fall.
    A single word or number that is longer than `longest` stays whole.
    """
    sentences = [piece for part in _cut(text, _SENTENCE_END) for piece in _fit(part, length, longest)]
    return _join_short([piece for piece in sentences if length(piece)], length, longest, shortest)


def _fit(sentence: str, length: Length, longest: int) -> list[str]:
    """The sentence itself if it fits, else its clauses, phrases or words, joined up to `longest`."""
    pieces = [sentence]
    for separator in (_CLAUSE_END, _CONJUNCTION, _SPACE):
        finer: list[str] = []
        for piece in pieces:
            parts = [piece] if length(piece) <= longest else _cut(piece, separator)
            finer += _fill(parts, length, longest)
        pieces = finer
    return [_closed(piece) for piece in pieces[:-1]] + pieces[-1:]


def _fill(parts: list[str], length: Length, longest: int) -> list[str]:
    """As few pieces as hold the parts in order, about equally long, so that none is a mere rest."""
    lengths = [length(part) for part in parts]
    fewest = len(_greedy(lengths, longest))
    balanced = next(limit for limit in range(longest + 1) if len(_greedy(lengths, limit)) == fewest)
    ends = accumulate(_greedy(lengths, balanced))
    starts = [0, *ends]
    return [" ".join(parts[start:end]) for start, end in pairwise(starts)]


def _greedy(lengths: list[int], limit: int) -> list[int]:
    """How many neighbours go into each piece when every piece takes what fits, and one part at least."""
    counts: list[int] = []
    total = 0
    for size in lengths:
        total += size
        if counts and total <= limit:
            counts[-1] += 1
        else:
            counts.append(1)
            total = size
    return counts


def _join_short(pieces: list[str], length: Length, longest: int, shortest: int) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        both = f"{joined[-1]} {piece}" if joined else piece
        short = bool(joined) and min(length(joined[-1]), length(piece)) < shortest
        if short and length(both) <= longest:
            joined[-1] = both
        else:
            joined.append(piece)
    return joined


def _cut(text: str, separator: re.Pattern[str]) -> list[str]:
    """Parts of `text` between separators that stand neither after an abbreviation nor inside a tag."""
    parts: list[str] = []
    start = 0
    for match in separator.finditer(text):
        before = text[start : match.start()]
        if (separator is _SENTENCE_END and ends_with_abbreviation(before)) or _WITHIN_TAG.search(before):
            continue
        parts.append(text[start : match.end()].strip())
        start = match.end()
    return [part for part in (*parts, text[start:].strip()) if part]


def _closed(piece: str) -> str:
    return piece if re.search(r"[,.?!;:\-–—][\"')\]]*$", piece) else f"{piece},"
