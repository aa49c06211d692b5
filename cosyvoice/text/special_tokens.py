"""The tokens that CosyVoice adds to the vocabulary of Qwen2, in the order that fixes their ids.

V2 adds 20 tokens (3 of them are Qwen2's own); V3 adds one more mark and 260 pronunciation tags: the phones of
the CMU dictionary with and without stress, and pinyin initials and finals with tone marks,
`[HH][AH0][L][OW1]` or `[n][ǐ]`.
"""

from __future__ import annotations

from typing import Literal

END_OF_TEXT = "<|endoftext|>"
END_OF_PROMPT = "<|endofprompt|>"

# fmt: off
_V2 = (
    END_OF_TEXT, "<|im_start|>", "<|im_end|>", END_OF_PROMPT, "[breath]", "<strong>", "</strong>",
    "[noise]", "[laughter]", "[cough]", "[clucking]", "[accent]", "[quick_breath]", "<laughter>",
    "</laughter>", "[hissing]", "[sigh]", "[vocalized-noise]", "[lipsmack]", "[mn]",
)
_ARPABET_VOWELS = (
    "AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW",
)
_ARPABET_CONSONANTS = (
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH",
    "V", "W", "Y", "Z", "ZH",
)
_PINYIN = (
    "a", "ai", "an", "ang", "ao", "b", "c", "ch", "d", "e", "ei", "en", "eng", "f", "g", "h", "i", "ian",
    "in", "ing", "iu", "ià", "iàn", "iàng", "iào", "iá", "ián", "iáng", "iáo", "iè", "ié", "iòng", "ióng",
    "iù", "iú", "iā", "iān", "iāng", "iāo", "iē", "iě", "iōng", "iū", "iǎ", "iǎn", "iǎng", "iǎo", "iǒng",
    "iǔ", "j", "k", "l", "m", "n", "o", "ong", "ou", "p", "q", "r", "s", "sh", "t", "u", "uang", "ue",
    "un", "uo", "uà", "uài", "uàn", "uàng", "uá", "uái", "uán", "uáng", "uè", "ué", "uì", "uí", "uò",
    "uó", "uā", "uāi", "uān", "uāng", "uē", "uě", "uī", "uō", "uǎ", "uǎi", "uǎn", "uǎng", "uǐ", "uǒ",
    "vè", "w", "x", "y", "z", "zh", "à", "ài", "àn", "àng", "ào", "á", "ái", "án", "áng", "áo", "è", "èi",
    "èn", "èng", "èr", "é", "éi", "én", "éng", "ér", "ì", "ìn", "ìng", "í", "ín", "íng", "ò", "òng", "òu",
    "ó", "óng", "óu", "ù", "ùn", "ú", "ún", "ā", "āi", "ān", "āng", "āo", "ē", "ēi", "ēn", "ēng", "ě",
    "ěi", "ěn", "ěng", "ěr", "ī", "īn", "īng", "ō", "ōng", "ōu", "ū", "ūn", "ǎ", "ǎi", "ǎn", "ǎng", "ǎo",
    "ǐ", "ǐn", "ǐng", "ǒ", "ǒng", "ǒu", "ǔ", "ǔn", "ǘ", "ǚ", "ǜ",
)
# fmt: on

# Tags are numbered in the order of their code points.
PRONUNCIATION_TAGS = tuple(
    f"[{name}]"
    for name in sorted(
        [*_ARPABET_CONSONANTS, *_PINYIN]
        + [vowel + stress for vowel in _ARPABET_VOWELS for stress in ("", "0", "1", "2")]
    )
)

_ADDED = {"v2": _V2, "v3": (*_V2, "<|endofsystem|>", *PRONUNCIATION_TAGS)}


def added_tokens(generation: Literal["v2", "v3"]) -> tuple[str, ...]:
    """Added tokens of a generation in the order of their ids: 20 for V2, 281 for V3."""
    return _ADDED[generation]
