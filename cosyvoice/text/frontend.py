"""The text frontend of the released models: normalise, split, drop what cannot be spoken.

Text that holds a control mark (`<|...|>`) is spoken as it stands, since normalisation would tear the marks
apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from cosyvoice.errors import TextError
from cosyvoice.text.normalise import Normaliser, is_only_punctuation
from cosyvoice.text.split import split_paragraph


class TextFrontend:
    """Text to pieces that the language model speaks one after the other.

    Args:
        tokenize: text to tokens; only their number matters here.
        normaliser: reads numbers, dates and signs.
        compat: "released" loses punctuation marks as the released implementation does; see `cut_sentences`.
    """

    def __init__(
        self,
        tokenize: Callable[[str], Sequence[object]],
        normaliser: Normaliser | None = None,
        compat: Literal["corrected", "released"] = "corrected",
    ) -> None:
        self._tokenize = tokenize
        self._normaliser = normaliser or Normaliser(compat=compat)
        self._keep_marks = compat == "corrected"

    def normalise(self, text: str) -> str:
        """The whole text as it will be spoken, in one piece: what a prompt's transcript needs.

        Raises:
            TextError: the text holds nothing but blanks. (An empty text stays empty.)
        """
        if self._stands_as_it_is(text):
            return text
        normalised, _ = self._normaliser(text)
        if not normalised:
            raise TextError("the text is empty; give at least one word")
        return normalised

    def split(self, text: str) -> list[str]:
        """Pieces of `text`; none where it holds only punctuation.

        Raises:
            TextError: the text holds nothing but blanks. (An empty text gives one empty piece.)
        """
        if self._stands_as_it_is(text):
            return [text]
        normalised, language = self._normaliser(text)
        pieces = split_paragraph(normalised, self._tokenize, language, keep_marks=self._keep_marks)
        return [piece for piece in pieces if not is_only_punctuation(piece)]

    @staticmethod
    def _stands_as_it_is(text: str) -> bool:
        return not text or ("<|" in text and "|>" in text)
