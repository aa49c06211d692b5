"""The sentences to speak: one a line in a text file, by default the held-out everyday sentences of this
package.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from cosyvoice.errors import TextError


def _parse(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def default_sentences() -> list[str]:
    """The held-out evaluation sentences: everyday English, 5 to 12 words each."""
    return _parse(resources.files("cosyvoice.evaluation").joinpath("sentences.txt").read_text(encoding="utf-8"))


def read_sentences(path: Path | None = None) -> list[str]:
    """Sentences of `path`, in order, without repetitions; empty lines and lines with # in front do not count.

    Raises:
        TextError: the file is missing, is not UTF-8 text, or holds no sentence.
    """
    if path is None:
        return default_sentences()
    try:
        sentences = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TextError(
            f"{path} cannot be read ({error.strerror}); give a text file with one sentence a line"
        ) from None
    except UnicodeDecodeError:
        raise TextError(f"{path} is not UTF-8 text; save it as UTF-8, one sentence a line") from None
    if not sentences:
        raise TextError(f"{path} holds no sentence; write one sentence a line")
    return sentences
