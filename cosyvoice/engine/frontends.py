"""Text frontends behind one protocol: phones for the small model, Qwen2's tokenizer for released ones."""

from __future__ import annotations

from pathlib import Path

import regex

from cosyvoice.config.model import ModelConfig
from cosyvoice.config.released import QWEN_DIRECTORY
from cosyvoice.engine.stages import TextFrontend
from cosyvoice.errors import MissingDependencyError, TextError
from cosyvoice.text.frontend import TextFrontend as QwenText
from cosyvoice.text.normalise import is_only_punctuation
from cosyvoice.text.phone_frontend import PhoneFrontend
from cosyvoice.text.phones import PHONES

_CONTROL_MARK = regex.compile(r"<\|[^|]*\|>|\[[^\]]*\]|</?(?:strong|laughter)>")
# Scripts of the languages that the released models were trained on; Greek letters are common in formulas.
_KNOWN_SCRIPTS = (
    "Latin",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "Cyrillic",
    "Greek",
    "Common",
    "Inherited",
)
_FOREIGN = regex.compile("(?![" + "".join(rf"\p{{Script={name}}}" for name in _KNOWN_SCRIPTS) + r"])\p{L}")
# Phones that one character stands for, on average over running text.
_PHONES_PER_CHARACTER = (
    (regex.compile(r"\p{Han}"), 2.6),
    (regex.compile(r"\p{Hangul}"), 2.4),
    (regex.compile(r"[\p{Hiragana}\p{Katakana}]"), 1.8),
    (regex.compile(r"[\p{Latin}\p{Cyrillic}\p{Greek}]"), 0.85),
    (regex.compile(r"\p{N}"), 3.5),
)


class PhoneTextFrontend:
    """English text to phone ids; prompts are read the same way as text."""

    def __init__(self, frontend: PhoneFrontend | None = None) -> None:
        self._frontend = frontend or PhoneFrontend()

    def split(self, text: str) -> list[str]:
        """See `TextFrontend`."""
        check_speakable(text)
        return self._frontend.split(text)

    def encode(self, text: str) -> list[int]:
        """See `TextFrontend`."""
        return self._frontend.encode(text)

    def encode_prompt(self, text: str) -> list[int]:
        """See `TextFrontend`."""
        return self._frontend.encode(text)

    def count_phones(self, text: str) -> int:
        """The phones of `text`, boundaries not counted."""
        return sum(phone in PHONES for phone in self._frontend.phones(text))


class QwenTextFrontend:
    """Text of many languages to token ids of Qwen2."""

    def __init__(self, directory: Path) -> None:
        """`directory` holds the tokenizer's files.

        Raises `ModelError` where they are missing, `MissingDependencyError` without the package tokenizers.
        """
        try:
            from cosyvoice.text.qwen_tokenizer import QwenTokenizer
        except ModuleNotFoundError:
            raise MissingDependencyError(
                "the text of released models needs the package tokenizers: pip install 'cosyvoice[released]'"
            ) from None
        self._tokenizer = QwenTokenizer(directory)
        self._frontend = QwenText(self._tokenizer.encode)

    def split(self, text: str) -> list[str]:
        """See `TextFrontend`. Text with a control mark `<|...|>` stays in one piece, as it is written."""
        check_speakable(text)
        foreign = _FOREIGN.search(text)
        if foreign:
            raise TextError(
                f"the text holds {foreign[0]!r}, a letter of a script that the model never saw; "
                "write the text in Latin, Chinese, Japanese, Korean or Cyrillic letters"
            )
        return self._frontend.split(text)

    def encode(self, text: str) -> list[int]:
        """See `TextFrontend`."""
        return self._tokenizer.encode(text)

    def encode_prompt(self, text: str) -> list[int]:
        """See `TextFrontend`. Numbers and signs are read as in `split`."""
        return self._tokenizer.encode(self._frontend.normalise(text))

    def count_phones(self, text: str) -> int:
        """An estimate from the characters of `text`; control marks and tags are not counted."""
        plain = _CONTROL_MARK.sub(" ", text)
        return round(sum(len(kind.findall(plain)) * phones for kind, phones in _PHONES_PER_CHARACTER))


def check_speakable(text: str) -> None:
    """Raise `TextError` for text without anything to speak."""
    stripped = text.strip()
    if not stripped:
        raise TextError("the text is empty; give at least one word")
    if all(is_only_punctuation(part) for part in stripped.split()):
        raise TextError(f"the text {stripped[:40]!r} is only punctuation; give at least one word")


def text_frontend(config: ModelConfig, directory: Path) -> TextFrontend:
    """The frontend of the model in `directory`."""
    if config.tokenizer == "phones":
        return PhoneTextFrontend()
    return QwenTextFrontend(directory / QWEN_DIRECTORY)
