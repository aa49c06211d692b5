"""Text frontends behind one protocol: phones for the small model, whisper's or Qwen2's tokens for released ones."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import regex

from cosyvoice.config.model import ModelConfig
from cosyvoice.config.qwen_files import QWEN_DIRECTORY
from cosyvoice.engine.compat import Compat, check_compat
from cosyvoice.engine.instructions import END_OF_PROMPT
from cosyvoice.engine.stages import TextFrontend
from cosyvoice.errors import MissingDependencyError, TextError
from cosyvoice.text.frontend import TextFrontend as TextPieces
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

    def words(self, text: str) -> list[tuple[str, ...]]:
        """The phones of every word that is spoken for `text`."""
        return [tuple(word.phones) for word in self._frontend.spoken_words(text)]

    def count_phones(self, text: str) -> int:
        """The phones of `text`, boundaries not counted."""
        return sum(phone in PHONES for phone in self._frontend.phones(text))


class Tokenizer(Protocol):
    """Text to token ids."""

    def encode(self, text: str) -> list[int]: ...


class ReleasedTextFrontend:
    """Text of many languages to the token ids of a released model.

    `compat` "released" loses punctuation marks where the released implementation does.
    """

    def __init__(self, tokenizer: Tokenizer, compat: Compat = "corrected") -> None:
        check_compat(compat)
        self._tokenizer = tokenizer
        self._frontend = TextPieces(tokenizer.encode, compat=compat)

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

    def normalise(self, text: str) -> str:
        """The whole of `text` as it is read, numbers and signs spelled out. Raises `TextError` for blanks."""
        return self._frontend.normalise(text)

    def encode(self, text: str) -> list[int]:
        """See `TextFrontend`."""
        return self._tokenizer.encode(text)

    def encode_prompt(self, text: str) -> list[int]:
        """See `TextFrontend`. Numbers and signs are read as in `split`."""
        return self._tokenizer.encode(self.normalise(text))

    def count_phones(self, text: str) -> int:
        """An estimate from the characters of `text`; control marks, tags and instructions are not counted."""
        plain = _CONTROL_MARK.sub(" ", text.rpartition(END_OF_PROMPT)[2])
        return round(sum(len(kind.findall(plain)) * phones for kind, phones in _PHONES_PER_CHARACTER))


def check_speakable(text: str) -> None:
    """Raise `TextError` for text without anything to speak."""
    stripped = text.strip()
    if not stripped:
        raise TextError("the text is empty; give at least one word")
    if all(is_only_punctuation(part) for part in stripped.split()):
        raise TextError(f"the text {stripped[:40]!r} is only punctuation; give at least one word")


def load_tokenizer(config: ModelConfig, directory: Path) -> Tokenizer:
    """The tokenizer of the released model in `directory`.

    Raises `ModelError` where its files are missing, `MissingDependencyError` without the packages that it needs.
    """
    try:
        if config.tokenizer == "whisper":
            from cosyvoice.text.whisper_tokenizer import WhisperTokenizer

            return WhisperTokenizer()
        from cosyvoice.text.qwen_tokenizer import QwenTokenizer
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the text of released models needs the package {error.name}: pip install 'cosyvoice[released]'"
        ) from None
    return QwenTokenizer(directory / QWEN_DIRECTORY, "v2" if config.generation == "v2" else "v3")


def text_frontend(config: ModelConfig, directory: Path, compat: Compat = "corrected") -> TextFrontend:
    """The frontend of the model in `directory`; for `compat`, see `ReleasedTextFrontend`."""
    if config.tokenizer == "phones":
        return PhoneTextFrontend()
    return ReleasedTextFrontend(load_tokenizer(config, directory), compat)
