"""Pronunciation of any English word: the lexicon first, then what morphology derives from it, then the
learned model.

The order matters. A possessive, a plural or a compound of known words is pronounced from its parts, which is
nearly always right; abbreviations in capitals are spelled; only what remains, mostly names, is left to
letter-to-sound.
"""

from __future__ import annotations

import re

from cosyvoice.errors import TextError
from cosyvoice.text.letter_to_sound import LetterToSound
from cosyvoice.text.lexicon import Lexicon
from cosyvoice.text.phones import STRESSED_VOWELS

# In capitals these are abbreviations, though in lower case the lexicon knows other words.
SPELLED_CAPITALS = frozenset(["AD", "AI", "AM", "ER", "ID", "MS", "MT", "OS", "UN", "US"])
LONGEST_SPELLED = 5

_SIBILANTS = frozenset(["S", "Z", "SH", "ZH", "CH", "JH"])
_VOICELESS = frozenset(["P", "T", "K", "F", "TH"])
_VOWELS = frozenset(STRESSED_VOWELS)

_CLITICS = {"'ll": "AH0 L", "'re": "ER0", "'ve": "AH0 V", "'m": "AH0 M", "n't": "AH0 N T"}
# Suffixes that begin with a consonant leave their stem as it is.
_CONSONANT_SUFFIXES = {
    "fully": "F AH0 L IY0",
    "less": "L AH0 S",
    "ness": "N AH0 S",
    "ment": "M AH0 N T",
    "ship": "SH IH0 P",
    "ful": "F AH0 L",
    "ly": "L IY0",
}
# Suffixes that begin with a vowel double the stem's last letter or drop its silent e.
_VOWEL_SUFFIXES = {
    "ings": "IH0 NG Z",
    "ing": "IH0 NG",
    "ers": "ER0 Z",
    "er": "ER0",
    "able": "AH0 B AH0 L",
}
_PREFIXES = {
    "anti": "AE1 N T IY0",
    "micro": "M AY1 K R OW0",
    "mini": "M IH1 N IY0",
    "multi": "M AH1 L T IY0",
    "non": "N AA1 N",
    "over": "OW1 V ER0",
    "pre": "P R IY0",
    "re": "R IY0",
    "super": "S UW1 P ER0",
    "un": "AH0 N",
}
_SHORTEST_STEM = 3
_SHORTEST_COMPOUND_PART = 4
_SAYABLE_CAPITALS = re.compile("[^AEIOU][AEIOU][^AEIOU][AEIOU][^AEIOU]?")
_CAMEL_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


class Pronouncer:
    """Word -> phones; loads the lexicon, and the learned model, when a word first needs them."""

    def __init__(self, lexicon: Lexicon | None = None, letter_to_sound: LetterToSound | None = None) -> None:
        self._lexicon = lexicon or Lexicon()
        self._letter_to_sound = letter_to_sound or LetterToSound()

    def knows(self, word: str) -> bool:
        """Whether the lexicon itself has the word, in any case."""
        return word.lower() in self._lexicon

    def pronounce(self, word: str) -> list[str]:
        """Phones of one word of the letters A to Z and apostrophes; capitals mark abbreviations.

        Hyphens join parts that are pronounced one after the other, unless the lexicon has the whole.
        Raises TextError for a word with other characters or without letters.
        """
        if not re.fullmatch(r"[A-Za-z'-]*[A-Za-z][A-Za-z'-]*", word):
            raise TextError(f"'{word}' cannot be pronounced: spell it with the letters A to Z")
        if word in SPELLED_CAPITALS:
            return self.spell(word)
        known = self._lexicon.get(word.lower())
        if known is not None:
            return known
        if "-" in word:
            return [phone for part in word.split("-") if part.strip("'") for phone in self.pronounce(part)]
        return self._clitic(word) or self._abbreviation(word) or self._camel_case(word) or self._plain(word)

    def spell(self, letters: str) -> list[str]:
        """Phones of the letters' names."""
        return [phone for letter in letters.lower() for phone in self._lexicon.get(f"{letter}.") or []]

    def _clitic(self, word: str) -> list[str] | None:
        """Possessives and contractions: the stem as a word, and the ending that suits its last phone."""
        lower = word.lower()
        if lower.endswith("'s"):
            return plural(self.pronounce(word[:-2])) if word[:-2].strip("'-") else ["Z"]
        if lower.endswith("'d") and len(lower) > 2:
            return past(self.pronounce(word[:-2]))
        for ending, phones in _CLITICS.items():
            if lower.endswith(ending) and lower[: -len(ending)].strip("'-"):
                return self.pronounce(word[: -len(ending)]) + phones.split()
        bare = word.replace("'", "")
        return self.pronounce(bare) if bare != word else None

    def _abbreviation(self, word: str) -> list[str] | None:
        """Spelled letters for short words in capitals (with a small plural s) or without any vowel letter.

        Capitals in which single consonants and vowels alternate (COVID, LIDAR) are said as words.
        """
        if re.fullmatch(f"[A-Z]{{2,{LONGEST_SPELLED}}}s", word):
            return plural(self.spell(word[:-1]))
        if len(word) <= LONGEST_SPELLED and (
            (word.isupper() and not _SAYABLE_CAPITALS.fullmatch(word)) or not re.search("[aeiouy]", word.lower())
        ):
            return self.spell(word)
        return None

    def _camel_case(self, word: str) -> list[str] | None:
        """`ChatGPT` as Chat and GPT, each part pronounced by itself."""
        parts: list[str] = _CAMEL_PARTS.findall(word)
        if len(parts) < 2 or "".join(parts) != word:
            return None
        return [phone for part in parts for phone in self.pronounce(part)]

    def _plain(self, word: str) -> list[str]:
        lower = word.lower()
        return (
            self._inflection(lower)
            or self._drawn_out(lower)
            or self._derivation(lower)
            or self._compound(lower)
            or self._letter_to_sound.pronounce(lower)
        )

    def _inflection(self, word: str) -> list[str] | None:
        """-s, -ed, -ing and other suffixes on a word of the lexicon."""
        if word.endswith("s") and not word.endswith("ss"):
            stem = self._first_known(word[:-1], word[:-2] if word.endswith("es") else "", _y_stem(word, "ies"))
            if stem:
                return plural(stem)
        if word.endswith("ed"):
            stem = self._first_known(*_vowel_stems(word[:-2]), _y_stem(word, "ied"))
            if stem:
                return past(stem)
        for suffix, phones in _VOWEL_SUFFIXES.items():
            stem = self._first_known(*_vowel_stems(word[: -len(suffix)])) if word.endswith(suffix) else None
            if stem:
                return stem + phones.split()
        for suffix, phones in _CONSONANT_SUFFIXES.items():
            stem = self._first_known(word[: -len(suffix)]) if word.endswith(suffix) else None
            if stem:
                return stem + phones.split()
        return None

    def _drawn_out(self, word: str) -> list[str] | None:
        """`sooo` and `nooo`: a letter written three times or more counts twice or once."""
        if not re.search(r"(.)\1\1", word):
            return None
        twice, once = re.sub(r"(.)\1{2,}", r"\1\1", word), re.sub(r"(.)\1{2,}", r"\1", word)
        return self._lexicon.get(twice) or self._lexicon.get(once)

    def _derivation(self, word: str) -> list[str] | None:
        """A prefix before a word that is known or inflects a known one."""
        for prefix, phones in _PREFIXES.items():
            rest = word.removeprefix(prefix)
            if rest != word and len(rest) >= _SHORTEST_COMPOUND_PART:
                stem = self._lexicon.get(rest) or self._inflection(rest)
                if stem:
                    return phones.split() + stem
        return None

    def _compound(self, word: str) -> list[str] | None:
        """Two known words in a row; of several cuts the one nearest to the middle."""
        cuts = range(_SHORTEST_COMPOUND_PART, len(word) - _SHORTEST_COMPOUND_PART + 1)
        for cut in sorted(cuts, key=lambda cut: abs(2 * cut - len(word))):
            first = self._lexicon.get(word[:cut])
            second = self._lexicon.get(word[cut:]) or self._inflection(word[cut:])
            if first and second:
                return first + second
        return None

    def _first_known(self, *stems: str) -> list[str] | None:
        return next(
            (phones for stem in stems if len(stem) >= _SHORTEST_STEM and (phones := self._lexicon.get(stem))),
            None,
        )


def plural(phones: list[str]) -> list[str]:
    """The phones with the ending of plurals and possessives: IH0 Z after sibilants, else S or Z."""
    if phones[-1] in _SIBILANTS:
        return [*phones, "IH0", "Z"]
    return [*phones, "S" if phones[-1] in _VOICELESS else "Z"]


def past(phones: list[str]) -> list[str]:
    """The phones with the ending of the past tense: IH0 D after T and D, T after voiceless phones, else D."""
    if phones[-1] in ("T", "D"):
        return [*phones, "IH0", "D"]
    return [*phones, "T" if phones[-1] in _VOICELESS or phones[-1] in ("S", "SH", "CH") else "D"]


def _vowel_stems(rest: str) -> list[str]:
    """Stems that `rest`, a word without its -ing or -ed, may come from: as it is, with its e, without
    doubling."""
    undoubled = rest[:-1] if len(rest) > 2 and rest[-1] == rest[-2] else ""
    # A stem of the form consonant-vowel-consonant would have doubled, so its e was dropped (`rated`).
    with_e_first = bool(re.search("[^aeiou][aeiouy][^aeiouwxy]$", rest)) and not undoubled
    return [f"{rest}e", rest] if with_e_first else [rest, undoubled, f"{rest}e"]


def _y_stem(word: str, ending: str) -> str:
    return word.removesuffix(ending) + "y" if word.endswith(ending) else ""
