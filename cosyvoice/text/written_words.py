"""Words as written, each with the phones that are spoken for it.

Reading a text aloud changes its words: "$4.50" is six of them, "July 5" is read in another order of thought than its
parts. Who shows words, in subtitles or highlighted, wants those that were written. So the words that will be spoken
are matched with those of every written word read alone, and what matches nothing goes to its neighbours in order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from cosyvoice.errors import TextError
from cosyvoice.text.phone_frontend import PhoneFrontend, SpokenWord

_LAST_LATIN = 0x24F
_MARK = re.compile(r"<\|[^|]*\|>")
_LARGEST_MOVE = 2
"""Words that stay as they are while others change places around them."""
# A phone tag may hold blanks, and belongs to the word with the punctuation around it.
_WRITTEN = re.compile(r"(?:\[[^\]]*\]|[^\s\[])+|\S")


@dataclass(frozen=True)
class WrittenWord:
    """A word between blanks with its punctuation, and the phones of the inventory that are spoken for it."""

    text: str
    phones: tuple[str, ...]


def written_words(frontend: PhoneFrontend, text: str) -> list[WrittenWord]:
    """The words of `text`, none without phones: what is not spoken, such as a dash, stays with the word before it.

    Joined with blanks the words are the text again, but for blanks, control marks and what stands alone before the
    first word. Raises `TextError` for text without anything to speak and for text in another script than Latin.
    """
    foreign = next((mark for mark in text if mark.isalpha() and ord(mark) > _LAST_LATIN), None)
    if foreign is not None:
        raise TextError(
            f"words are found in time in English text only, and the text holds {foreign!r}; "
            "leave out timestamps and subtitles, or give the text in English"
        )
    words: list[WrittenWord] = []
    for piece in frontend.split(_MARK.sub(" ", text)):
        words += _of_piece(frontend, piece)
    return words


def _of_piece(frontend: PhoneFrontend, piece: str) -> list[WrittenWord]:
    written = _WRITTEN.findall(piece)
    spoken = frontend.spoken_words(piece)
    alone: list[tuple[str, int]] = []
    for index, word in enumerate(written):
        alone += [(_key(part), index) for part in frontend.spoken_words(word)]
    phones: list[list[str]] = [[] for _ in written]
    for word, owner in zip(spoken, _owners([_key(word) for word in spoken], alone), strict=True):
        phones[owner] += word.phones
    words: list[WrittenWord] = []
    for text, sounds in zip(written, phones, strict=True):
        if sounds or not words:
            words.append(WrittenWord(text, tuple(sounds)))
        else:
            words[-1] = WrittenWord(f"{words[-1].text} {text}", words[-1].phones)
    return [word for word in words if word.phones]


def _key(word: SpokenWord) -> str:
    return word.spelling.lower() or " ".join(word.phones)


def _owners(spoken: list[str], alone: list[tuple[str, int]]) -> list[int]:
    """Number of the written word that each spoken word belongs to; never decreasing."""
    matcher = SequenceMatcher(None, spoken, [key for key, _ in alone], autojunk=False)
    owners: list[int] = []
    for start, end, other_start, other_end in _blocks(matcher.get_opcodes()):
        for index in range(start, end):
            if other_end > other_start:
                other = other_start + (index - start) * (other_end - other_start) // (end - start)
            else:
                # Words that nothing written stands for by itself go to the word before.
                other = max(other_start - 1, 0)
            owners.append(alone[other][1] if alone else 0)
    return owners


def _blocks(opcodes: Sequence[tuple[str, int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Ranges (start, end, other start, other end) that belong together.

    Words spoken in another order ("the fifth of July") match in part, with spoken words too many on one side and
    written ones on the other; the whole of it is one block.
    """
    blocks: list[tuple[int, int, int, int]] = []
    index = 0
    while index < len(opcodes):
        kind, *ranges = opcodes[index]
        following = opcodes[index + 1 : index + 3]
        if len(following) == 2:
            between, last = following
            if between[2] - between[1] <= _LARGEST_MOVE and {kind, last[0]} == {"insert", "delete"}:
                blocks.append((ranges[0], last[2], ranges[2], last[4]))
                index += 3
                continue
        blocks.append((ranges[0], ranges[1], ranges[2], ranges[3]))
        index += 1
    return blocks
