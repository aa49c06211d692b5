"""The recogniser that a model's own speech tokenizer was trained through, as judge of what its language model said.

It costs a millisecond or so for a piece, and what is wrong is known before flow and vocoder have worked for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cosyvoice.engine.alignment import align_words
from cosyvoice.engine.frontends import PhoneTextFrontend
from cosyvoice.engine.prompt_encoders import LazySession
from cosyvoice.engine.stages import TextFrontend, TokenRecogniser
from cosyvoice.errors import AudioError

ALIGNER = "aligner.onnx"


class PhonesOfTokens:
    """See `TokenRecogniser`; safe from many threads."""

    def __init__(self, path: Path, frontend: PhoneTextFrontend, threads: int | None = None) -> None:
        self._session = LazySession(path, threads, "hearing what was said")
        self._frontend = frontend

    def words(self, text: str) -> list[tuple[str, ...]]:
        """See `TokenRecogniser`."""
        return self._frontend.words(text)

    def scores(self, tokens: Sequence[int], words: Sequence[Sequence[str]]) -> list[float]:
        """See `TokenRecogniser`; zeros where the tokens are too few for the words."""
        log_probs = self._session.run(np.asarray(tokens, np.int32)[None])[0]
        try:
            return [word.score for word in align_words(log_probs, words)]
        except AudioError:
            return [0.0] * len(words)


def token_recogniser(directory: Path, text: TextFrontend, threads: int | None = None) -> TokenRecogniser | None:
    """The recogniser of the model in `directory`, whose texts `text` reads; None where it has none."""
    path = directory / ALIGNER
    return PhonesOfTokens(path, text, threads) if path.is_file() and isinstance(text, PhoneTextFrontend) else None
