"""From English text to the phone ids of the small model.

Text becomes plain words (typography, abbreviations, numbers), words become phones, and phones are laid out as
in training. Phones may be written into the text in brackets, `[K AE1 T]` or `[K][AE1][T]`, and pass through
as they are: the means to correct a name. Long text is cut into pieces of a few seconds each, the lengths that
the model was trained on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cosyvoice.errors import TextError
from cosyvoice.text.english_numbers import EnglishNumbers
from cosyvoice.text.english_words import (
    expand_abbreviations,
    expand_signs,
    lower_if_shouted,
    plain_latin,
)
from cosyvoice.text.g2p import Pronouncer
from cosyvoice.text.phones import (
    PHONES,
    STRESSED_VOWELS,
    VOWELS,
    PhoneTokenizer,
    lay_out_sentence,
    normalise_phone,
    strongest_mark,
)
from cosyvoice.text.piece_splitting import split_pieces

MAX_PHONES = 90
"""Symbols of a piece, about eight seconds of speech."""
MIN_PHONES = 20
"""Shorter pieces join a neighbour, since one or two words alone are hard to speak evenly."""

_NOTHING = "the text has nothing to speak: give at least one word with letters or digits"

# One phone, or several that look like phones: a misspelt one among them is refused rather than read out.
_PHONE_NAME = "|".join(sorted(PHONES | set(VOWELS) | {f"{vowel}2" for vowel in VOWELS}, reverse=True))
_TAG = rf"\[\s*(?:(?:{_PHONE_NAME})|[A-Z]{{2}}\d|[A-Z]{{1,2}}\d?(?:\s+[A-Z]{{1,2}}\d?)+)\s*\]"
_TAGGED_WORD = re.compile(rf"(?<![A-Za-z])((?:{_TAG})+)(?![A-Za-z])")
# Breaths, laughter and emphasis, which only the large models can speak.
_EVENT_TAG = re.compile(
    r"\[(?:quick_)?(?:breath|noise|laughter|cough|clucking|accent|hissing|sigh|lipsmack|mn|vocalized-noise)\]"
    r"|</?(?:strong|laughter)>"
)
_TOKEN = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*'?|'[A-Za-z]+|[,.?!;:]+|(?<=\s)-+(?=\s)|--+|[()]")
_HYPHENED = re.compile(r"[A-Za-z']+(?:-[A-Za-z']+)+")

_Word = tuple[list[str], str]


@dataclass(frozen=True)
class SpokenWord:
    """A word as written (empty for a tag), its phones and the mark that follows."""

    spelling: str
    phones: list[str]
    mark: str


class PhoneFrontend:
    """Text in, phone ids out. Dictionaries load when first needed, once for an instance."""

    def __init__(self, pronouncer: Pronouncer | None = None) -> None:
        self._pronouncer = pronouncer or Pronouncer()
        self._numbers = EnglishNumbers()
        self._tokenizer = PhoneTokenizer()

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.vocab_size

    def encode(self, text: str) -> list[int]:
        """Ids of `phones(text)`; raises the same errors."""
        return self._tokenizer.encode_phones(self.phones(text))

    def phones(self, text: str) -> list[str]:
        """Phones of a sentence or more, laid out with word boundaries and punctuation (see `phones`).

        Raises TextError for text without anything to speak and for text in another script than Latin.
        """
        spoken = self._spoken_words(text)
        if not any(word.phones for word in spoken):
            raise TextError(_NOTHING)
        return lay_out_sentence(_reduced(spoken))

    def spoken_words(self, text: str) -> list[SpokenWord]:
        """The words that are spoken for `text`, in the forms that their neighbours ask for; none without phones.

        Raises TextError for text in another script than Latin.
        """
        spoken = self._spoken_words(text)
        forms = zip(spoken, _reduced(spoken), strict=True)
        return [SpokenWord(word.spelling, phones, mark) for word, (phones, mark) in forms if phones]

    def normalise(self, text: str) -> str:
        """`text` as plain words: no digits, signs or abbreviations; tags stay as they are."""
        return " ".join(part if is_tag else self._plain_words(part) for part, is_tag in _tagged_parts(text)).strip()

    def split(self, text: str, max_phones: int = MAX_PHONES, min_phones: int = MIN_PHONES) -> list[str]:
        """Cuts `text` into pieces of at most `max_phones` symbols, in order and with their punctuation.

        Cuts are made at ends of sentences, else at commas and other marks, else before conjunctions, else
        between words, but never within a number or a tag. Only a single word can make a longer piece. Raises
        the same errors as `phones`.
        """
        pieces = split_pieces(text, self._length, max_phones, min_phones)
        if not pieces:
            raise TextError(_NOTHING)
        return pieces

    def _length(self, text: str) -> int:
        """Number of symbols of a part of a text; 0 for a part without words."""
        return sum(len(word.phones) + 1 for word in self._spoken_words(text) if word.phones)

    def _plain_words(self, text: str) -> str:
        text = lower_if_shouted(expand_abbreviations(plain_latin(text)))
        return re.sub(r"\s+", " ", expand_signs(self._numbers.expand(text))).strip()

    def _spoken_words(self, text: str) -> list[SpokenWord]:
        spoken: list[SpokenWord] = []
        for part, is_tag in _tagged_parts(text):
            if is_tag:
                phones = [normalise_phone(phone) for phone in re.findall(r"[A-Z]+\d?", part)]
                spoken.append(SpokenWord("", phones, ""))
            else:
                spoken += self._words(self._plain_words(part))
        return spoken

    def _words(self, text: str) -> list[SpokenWord]:
        """Words of normalised text; a mark before the first word becomes a word without phones."""
        spoken: list[SpokenWord] = []
        text = _HYPHENED.sub(self._unhyphened, text)
        for token in _TOKEN.findall(f" {text} "):
            if re.search("[A-Za-z]", token):
                phones = self._pronouncer.pronounce(token)
                spoken.append(SpokenWord(token, phones, ""))
            else:
                spoken.append(SpokenWord("", [], _mark(token)))
        return spoken

    def _unhyphened(self, match: re.Match[str]) -> str:
        """Parts of a hyphened word become words, unless the lexicon has the whole."""
        return match[0] if self._pronouncer.knows(match[0]) else match[0].replace("-", " ")


def _mark(token: str) -> str:
    """The mark that a punctuation token stands for; parentheses are spoken as short pauses."""
    return "," if token in "()" else strongest_mark(token)


def _tagged_parts(text: str) -> list[tuple[str, bool]]:
    """Text cut at phone tags: (part, whether it is a tag), empty parts left out; event tags are dropped."""
    parts = _TAGGED_WORD.split(_EVENT_TAG.sub(" ", text))
    return [(part, index % 2 == 1) for index, part in enumerate(parts) if part.strip()]


def _reduced(spoken: list[SpokenWord]) -> list[_Word]:
    """Words with marks, `the` and `to` in the weak forms that the sound after them asks for."""
    words: list[_Word] = []
    for index, word in enumerate(spoken):
        following = spoken[index + 1].phones if index + 1 < len(spoken) else []
        words.append((_weak_form(word, following), word.mark))
    return words


def _weak_form(word: SpokenWord, following: list[str]) -> list[str]:
    """`the` is DH IY0 before a vowel; `to` is T AH0 before a consonant and full elsewhere, as at a pause."""
    before_vowel = bool(following) and following[0] in STRESSED_VOWELS
    spelling = word.spelling.lower()
    if spelling == "the" and before_vowel:
        return ["DH", "IY0"]
    if spelling == "to" and following and not before_vowel:
        return ["T", "AH0"]
    return word.phones
