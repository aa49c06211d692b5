"""The recogniser that a model's own speech tokenizer was trained through, as judge of what its language model said.

It costs a millisecond or so for a piece, and what is wrong is known before flow and vocoder have worked for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cosyvoice.engine.aligner import ALIGNER, TokenPhones
from cosyvoice.engine.alignment import align_words
from cosyvoice.engine.frontends import PhoneTextFrontend
from cosyvoice.engine.stages import TextFrontend, TokenRecogniser
from cosyvoice.errors import AudioError


class PhonesOfTokens:
    """See `TokenRecogniser`; safe from many threads."""

    def __init__(self, directory: Path, frontend: PhoneTextFrontend, threads: int | None = None) -> None:
        self._phones = TokenPhones(directory, threads, "hearing what was said")
        self._frontend = frontend

    def words(self, text: str) -> list[tuple[str, ...]]:
        """See `TokenRecogniser`."""
        return self._frontend.words(text)

    def scores(self, tokens: Sequence[int], words: Sequence[Sequence[str]]) -> list[float]:
        """See `TokenRecogniser`; zeros where the tokens are too few for the words."""
        try:
            return [word.score for word in align_words(self._phones(tokens), words)]
        except AudioError:
            return [0.0] * len(words)


def token_recogniser(directory: Path, text: TextFrontend, threads: int | None = None) -> TokenRecogniser | None:
    """The recogniser of the model in `directory`, whose texts `text` reads; None where it has none."""
    if not isinstance(text, PhoneTextFrontend) or not (directory / ALIGNER).is_file():
        return None
    return PhonesOfTokens(directory, text, threads)
