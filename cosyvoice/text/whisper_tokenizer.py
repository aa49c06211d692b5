"""The multilingual vocabulary of whisper, which the first generation reads: byte pairs and 1,609 marks.

The ranks of the byte pairs are OpenAI's (MIT licence, see `data/LICENSE.whisper`), packed as lengths and bytes in the
order of their ranks. The marks follow them in the order that whisper gives them: end of text, start of a transcript,
100 languages, tasks, and time stamps every 0.02 s up to 30 s. Marks are recognised wherever they stand in the text.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Sequence
from pathlib import Path

import tiktoken

from cosyvoice.errors import ModelError

RANKS_FILE = Path(__file__).parent / "data" / "whisper_multilingual.xz"

_LANGUAGES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi "
    "ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd "
    "gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue"
)
_TASKS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
_TIME_STAMPS = 1501
_SECONDS_PER_STAMP = 0.02
# As in GPT-2: contractions, words, numbers and runs of signs, each with one blank before it; other blanks.
_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def special_tokens() -> list[str]:
    """The marks in the order of their ids."""
    names = ["endoftext", "startoftranscript", *_LANGUAGES.split(), *_TASKS]
    names += [f"{index * _SECONDS_PER_STAMP:.2f}" for index in range(_TIME_STAMPS)]
    return [f"<|{name}|>" for name in names]


def pack_tokens(tokens: Iterable[bytes]) -> bytes:
    """Tokens, each shorter than 256 bytes, as one compressed piece that `read_tokens` understands."""
    return lzma.compress(b"".join(bytes([len(token)]) + token for token in tokens), preset=9 | lzma.PRESET_EXTREME)


def read_tokens(path: Path = RANKS_FILE) -> list[bytes]:
    """The tokens of a vocabulary in the order of their ranks. Raises `ModelError` for a damaged file."""
    try:
        packed = lzma.decompress(path.read_bytes())
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ModelError(f"the vocabulary {path} cannot be read ({error}); install the package again") from None
    tokens: list[bytes] = []
    place = 0
    while place < len(packed):
        end = place + 1 + packed[place]
        tokens.append(packed[place + 1 : end])
        place = end
    return tokens


class WhisperTokenizer:
    """Text to token ids and back, as whisper with 100 languages does it. Takes about 0.2 s to make."""

    def __init__(self, path: Path = RANKS_FILE) -> None:
        ranks = {token: rank for rank, token in enumerate(read_tokens(path))}
        marks = {token: len(ranks) + index for index, token in enumerate(special_tokens())}
        self._encoding = tiktoken.Encoding(
            "whisper", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=marks,
            explicit_n_vocab=len(ranks) + len(marks),
        )  # fmt: skip
        self._first_mark = len(ranks)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        return self._encoding.encode(text, allowed_special="all")

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids, without the marks unless `skip_special_tokens` is False."""
        kept = [index for index in ids if index < self._first_mark] if skip_special_tokens else list(ids)
        return self._encoding.decode(kept)

    def id_of(self, token: str) -> int | None:
        """Id of one token, None where the vocabulary has no such token."""
        try:
            return self._encoding.encode_single_token(token)
        except KeyError:
            return None

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the marks included."""
        return self._encoding.n_vocab
