"""The phone inventory of the small English model, its tokenizer, and the one layout of a sentence in phones.

Layout. A sentence is the phones of its words in order; after every word stands exactly one boundary symbol,
which is the punctuation mark that follows the word or, where none follows, `_`. The last boundary is always
punctuation (`.` is added where the text ends without any), so a sentence never ends in `_` and never begins
with a boundary:

    "Hello, world"     HH AH0 L OW1 , W ER1 L D .
    "Is it you?"       IH1 Z _ IH1 T _ Y UW1 ?

Whoever prepares training data must produce this layout; `lay_out_sentence` does. Phones are the 39 of the CMU
Pronouncing Dictionary; vowels carry stress 0 (none) or 1 (the dictionary's primary and secondary stress,
since the synthesisers that spoke the training data make no difference between the two).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cosyvoice.errors import TextError

VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG",
    "P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
STRESSED_VOWELS = tuple(f"{vowel}{stress}" for vowel in VOWELS for stress in (0, 1))
PHONES = frozenset(STRESSED_VOWELS) | frozenset(CONSONANTS)

PAD = "<pad>"
WORD_BOUNDARY = "_"
PUNCTUATION = (",", ".", "?", "!", ";", ":", "-")
SENTENCE_ENDS = (".", "?", "!")

VOCAB_SIZE = 96
_USED = (PAD, WORD_BOUNDARY, *PUNCTUATION, *CONSONANTS, *STRESSED_VOWELS)
# Reserved ids let a later model gain symbols (breaths, other vowels) without a new embedding table.
SYMBOLS = _USED + tuple(f"<reserved{index}>" for index in range(VOCAB_SIZE - len(_USED)))

# Names that occur in the synthesisers' phone sets but not in the dictionary's.
_SYNTHESISER_ALIASES: dict[str, tuple[str, ...]] = {
    "ax": ("AH0",),
    "axr": ("ER0",),
    "ix": ("IH0",),
    "el": ("AH0", "L"),
    "em": ("AH0", "M"),
    "en": ("AH0", "N"),
    "dx": ("T",),
    "nx": ("N",),
    "hv": ("HH",),
    "pau": (),
    "h#": (),
    "brth": (),
    "ssil": (),
}


def from_synthesiser(name: str, stress: int = 0) -> tuple[str, ...]:
    """Our symbols for one phone of flite's and festival's US English (`radio`) set, in either case.

    `stress` is the stress of the phone's syllable (0, 1 or 2; consonants ignore it). Syllabic consonants give
    two symbols and pauses none: a pause is no phone, the boundary symbol stands for it. Raises TextError for
    an unknown name.
    """
    alias = _SYNTHESISER_ALIASES.get(name.lower())
    if alias is not None:
        return alias
    return (normalise_phone(f"{name}{stress}" if name.upper() in VOWELS else name),)


def normalise_phone(phone: str) -> str:
    """The inventory's spelling of an ARPAbet phone: upper case, stress 2 folded to 1, a bare vowel stressed.

    Raises TextError for anything that is no phone of the CMU Pronouncing Dictionary.
    """
    upper = phone.upper()
    if upper in VOWELS:
        upper += "1"
    elif upper.endswith("2"):
        upper = upper[:-1] + "1"
    if upper not in PHONES:
        raise TextError(
            f"'{phone}' is not a phone of the inventory: use the ARPAbet phones of the CMU Pronouncing "
            "Dictionary, vowels with stress 0, 1 or 2 (for example HH AH0 L OW1)"
        )
    return upper


def lay_out_sentence(words: Iterable[tuple[Sequence[str], str]]) -> list[str]:
    """Phones of a sentence from its words, each given as (phones, mark that follows it or '').

    `mark` may hold several characters ("?!", "..."); the strongest one stays: `?`, `!`, `.`, then `:`, `;`,
    `-`, `,`. Words without phones are dropped, and their mark goes to the word before. Raises TextError when
    no word has phones.
    """
    laid: list[str] = []
    for phones, mark in words:
        if phones:
            laid += [*phones, strongest_mark(mark) or WORD_BOUNDARY]
        elif laid:
            laid[-1] = strongest_mark(laid[-1] + mark) or WORD_BOUNDARY
    if not laid:
        raise TextError("there is nothing to pronounce: give at least one word with letters or digits")
    if laid[-1] == WORD_BOUNDARY:
        laid[-1] = "."
    return laid


def strongest_mark(marks: str) -> str:
    """The one punctuation symbol that stands for a run of marks, or '' where none is in the inventory."""
    return next((mark for mark in "?!.:;-," if mark in marks), "")


class PhoneTokenizer:
    """Symbols to ids and back; the ids are stable: `<pad>` is 0, and new symbols take reserved ids."""

    def __init__(self) -> None:
        self._ids = {symbol: index for index, symbol in enumerate(SYMBOLS)}

    @property
    def vocab_size(self) -> int:
        return len(SYMBOLS)

    @property
    def pad_id(self) -> int:
        return self._ids[PAD]

    def encode_phones(self, phones: Iterable[str]) -> list[int]:
        """Ids of symbols; raises TextError for a symbol outside the inventory."""
        try:
            return [self._ids[phone] for phone in phones]
        except KeyError as error:
            raise TextError(
                f"'{error.args[0]}' is no symbol of the phone inventory: use phones like AH0 or K, '_' "
                f"between words, and the marks {' '.join(PUNCTUATION)}"
            ) from None

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Symbols of ids, padding left out; raises TextError for an id outside the vocabulary."""
        symbols: list[str] = []
        for index in ids:
            if not 0 <= index < len(SYMBOLS):
                raise TextError(f"phone id {index} is outside the vocabulary: ids run from 0 to {len(SYMBOLS) - 1}")
            symbols.append(SYMBOLS[index])
        return [symbol for symbol in symbols if symbol != PAD]
