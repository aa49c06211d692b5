"""Names of languages as clients write them: English words, or codes with or without a region."""

from __future__ import annotations

import re

NAMES = {
    "chinese": "zh", "mandarin": "zh", "cantonese": "yue", "english": "en", "japanese": "ja", "korean": "ko",
    "german": "de", "spanish": "es", "french": "fr", "italian": "it", "portuguese": "pt", "russian": "ru",
}  # fmt: skip
_TAG = re.compile(r"([a-z]{2,3})(?:[-_][a-z0-9]{2,8})*")


def language_code(text: str) -> str | None:
    """The code of the language that `text` names, without its region; `auto`; None for what is no language."""
    name = text.strip().lower()
    if name in ("", "auto"):
        return "auto"
    if name in NAMES:
        return NAMES[name]
    tag = _TAG.fullmatch(name)
    return tag[1] if tag else None


def language_name(code: str) -> str:
    """The English name of a language, as `language_code` reads it; the code itself where there is none here."""
    return next((name.capitalize() for name, known in NAMES.items() if known == code), code)
