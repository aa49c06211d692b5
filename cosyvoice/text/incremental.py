"""Text that arrives in parts of any length, as from a language model: cut where it can be read on.

`WordBuffer` holds back the last word, which may not be complete; `SentenceBuffer` holds back the last sentence. The
joined output is the joined input, whatever the parts were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import regex

_WORD_END = regex.compile(
    r"\s(?=\S*$)|[\p{Han}\p{Hiragana}\p{Katakana}\p{P}](?=[^\p{Han}\p{Hiragana}\p{Katakana}\p{P}\s]*$)"
)
# A full stop of European writing ends a sentence only where a blank follows; that of Chinese does so by itself.
_SENTENCE_END = regex.compile(r"""[.!?…;:]+["'”’)\]]*(?=\s)|[。！？；]+["'”’）」』]*|\n+""")
_ABBREVIATION = regex.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|No|Mt|[A-Z])\.$")
# Text without any sentence end is cut at a comma beyond this many characters, so that somebody hears something.
_PATIENCE = 160
_CLAUSE_END = regex.compile(r"[,，、—–](?=\s|\p{Han})")


class WordBuffer:
    """Gives out whole words. A blank goes with the word behind it, as tokenizers of bytes expect it."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> str:
        """What can be read on now that `text` has come; may be empty."""
        self._held += text
        match = _WORD_END.search(self._held)
        if match is None:
            return ""
        end = match.start() if match[0].isspace() else match.end()
        ready, self._held = self._held[:end], self._held[end:]
        return ready

    def finish(self) -> str:
        """The rest."""
        ready, self._held = self._held, ""
        return ready


class SentenceBuffer:
    """Gives out whole sentences, each with the blanks behind it."""

    def __init__(self, shortest: int = 12) -> None:
        """Sentences of fewer than `shortest` characters are given out together with the next one."""
        self._held = ""
        self._shortest = shortest

    def push(self, text: str) -> list[str]:
        """The sentences that are complete now that `text` has come."""
        self._held += text
        sentences, start = [], 0
        for match in _SENTENCE_END.finditer(self._held):
            sentence = self._held[start : match.end()]
            if len(sentence.strip()) < self._shortest or _ABBREVIATION.search(sentence):
                continue
            sentences.append(sentence)
            start = match.end()
        self._held = self._held[start:]
        if len(self._held) > _PATIENCE:
            cuts = [match.end() for match in _CLAUSE_END.finditer(self._held)]
            if cuts:
                sentences.append(self._held[: cuts[-1]])
                self._held = self._held[cuts[-1] :]
        return sentences

    def finish(self) -> str:
        """The rest."""
        ready, self._held = self._held, ""
        return ready


def whole_words(parts: Iterable[str]) -> Iterator[str]:
    """Words of arriving text as soon as they are there, several at a time or one; nothing empty."""
    words = WordBuffer()
    for part in parts:
        if ready := words.push(part):
            yield ready
    if rest := words.finish():
        yield rest


def whole_sentences(parts: Iterable[str]) -> Iterator[str]:
    """Sentences of arriving text as soon as they are there, and at last the rest, which may be empty."""
    sentences = SentenceBuffer()
    for part in parts:
        yield from sentences.push(part)
    yield sentences.finish()
