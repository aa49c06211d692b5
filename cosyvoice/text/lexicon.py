"""English pronunciations from the CMU Pronouncing Dictionary, shipped as one compressed file.

The file holds two columns, words and pronunciations, separated by a NUL; a pronunciation is a string with
one character a phone. It is read at the first look-up of an instance, in about a tenth of a second, and
stays packed: only the words that are asked for are turned into lists of phones.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path

from cosyvoice.errors import ModelError
from cosyvoice.text.phones import CONSONANTS, STRESSED_VOWELS

LEXICON_FILE = Path(__file__).parent / "data" / "cmudict.xz"

_CODES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz01"
_PHONE_OF_CODE = dict(zip(_CODES, CONSONANTS + STRESSED_VOWELS, strict=True))
_CODE_OF_PHONE = {phone: code for code, phone in _PHONE_OF_CODE.items()}
# Literal context of four bits suits text; the whole file fits the dictionary window.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]


class Lexicon:
    """Look-up of lower-case words. Heteronyms have one entry, the dictionary's first pronunciation."""

    def __init__(self, path: Path = LEXICON_FILE) -> None:
        self._path = path
        self._codes: dict[str, str] | None = None

    def get(self, word: str) -> list[str] | None:
        """Phones of `word`, or None if the lexicon lacks it. Raises ModelError for a damaged file."""
        codes = self._table().get(word)
        return None if codes is None else [_PHONE_OF_CODE[code] for code in codes]

    def __contains__(self, word: str) -> bool:
        return word in self._table()

    def __len__(self) -> int:
        return len(self._table())

    def words(self) -> list[str]:
        """All the words, sorted."""
        return list(self._table())

    def _table(self) -> dict[str, str]:
        if self._codes is None:
            self._codes = unpack_lexicon(self._path)
        return self._codes


def pack_lexicon(pronunciations: Mapping[str, Sequence[str]]) -> bytes:
    """Bytes of a lexicon file from word -> phones."""
    words = sorted(pronunciations)
    codes = ["".join(_CODE_OF_PHONE[phone] for phone in pronunciations[word]) for word in words]
    text = "\n".join(words) + "\0" + "\n".join(codes)
    return lzma.compress(text.encode(), format=lzma.FORMAT_XZ, filters=_FILTERS)


def unpack_lexicon(path: Path) -> dict[str, str]:
    """Word -> pronunciation, one character a phone. Raises ModelError for a missing or damaged file."""
    try:
        words, codes = lzma.decompress(path.read_bytes()).decode().split("\0")
        return dict(zip(words.split("\n"), codes.split("\n"), strict=True))
    except (OSError, lzma.LZMAError, EOFError, ValueError) as error:
        raise ModelError(f"the pronunciation lexicon {path} cannot be read ({error}): reinstall the package") from error
