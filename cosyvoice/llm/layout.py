"""How text and speech tokens are arranged into one sequence, for training and for decoding.

A sequence is a list of rows; each row names a table (text, speech or special) and an index in it. Arranging
rows rather than embeddings keeps the layouts testable, and lets generations that keep their special tokens in
different tables share them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from cosyvoice.config.model import LLMConfig
from cosyvoice.errors import ConfigError

IGNORED = -1
"""Target of a position that the loss skips."""


class Kind(IntEnum):
    """The table that a row is read from."""

    PAD = 0
    TEXT = 1
    SPEECH = 2
    SPECIAL = 3


class Row(NamedTuple):
    """One input position."""

    kind: Kind
    id: int


@dataclass(frozen=True)
class SpecialTokens:
    """Ids around the speech vocabulary. `sos` and `task` are special rows; the others are outputs."""

    sos: int
    eos: int
    task: int
    fill: int
    stop_ids: range
    """Every output id that ends an utterance."""


def special_tokens(config: LLMConfig) -> SpecialTokens:
    """The ids of the third generation: behind the V speech tokens sos V, eos V+1, task V+2, fill V+3, then reserved.

    Raises `ConfigError` where they have no rows.
    """
    size, extra = config.speech_token_size, config.speech_extra_tokens
    if extra < 4:
        raise ConfigError(f"speech_extra_tokens is {extra}, sos, eos, task and fill need 4 rows")
    return SpecialTokens(sos=size, eos=size + 1, task=size + 2, fill=size + 3, stop_ids=range(size, size + extra))


class Layout(NamedTuple):
    """One training sequence: rows and, for each row, the output id that should follow it."""

    rows: list[Row]
    targets: list[int]


def text_rows(ids: Sequence[int]) -> list[Row]:
    return [Row(Kind.TEXT, int(i)) for i in ids]


def speech_rows(ids: Sequence[int]) -> list[Row]:
    return [Row(Kind.SPEECH, int(i)) for i in ids]


def unistream(
    text: Sequence[int], speech: Sequence[int], special: SpecialTokens, instruct: Sequence[int] = ()
) -> Layout:
    """`[sos, instruct, text, task, speech]`: task predicts the first speech token, the last one eos."""
    rows = [Row(Kind.SPECIAL, special.sos), *text_rows(instruct), *text_rows(text)]
    targets = [IGNORED] * len(rows) + [int(i) for i in speech] + [special.eos]
    return Layout([*rows, Row(Kind.SPECIAL, special.task), *speech_rows(speech)], targets)


def bistream(
    text: Sequence[int],
    speech: Sequence[int],
    special: SpecialTokens,
    mix_ratio: tuple[int, int],
    instruct: Sequence[int] = (),
) -> Layout:
    """`[sos, instruct]`, then blocks of N text and M speech tokens, then the rest as in `unistream`.

    The last speech token of a full block predicts the fill token, which asks for more text; fill is never an
    input. The speech must be longer than M/N times the text, otherwise the last full block would lack speech:
    `ConfigError`.
    """
    n, m = mix_ratio
    full = len(text) // n
    if len(speech) < full * m:
        raise ConfigError(
            f"{len(text)} text tokens need at least {full * m} speech tokens in blocks of {n}:{m}, "
            f"there are {len(speech)}; use the unistream layout for this item"
        )
    rows = [Row(Kind.SPECIAL, special.sos), *text_rows(instruct)]
    targets = [IGNORED] * len(rows)
    for block in range(full):
        block_speech = speech[block * m : (block + 1) * m]
        rows += text_rows(text[block * n : (block + 1) * n]) + speech_rows(block_speech)
        targets += [IGNORED] * (n - 1) + [int(i) for i in block_speech] + [special.fill]
    rest_text, rest_speech = text[full * n :], speech[full * m :]
    rows += [*text_rows(rest_text), Row(Kind.SPECIAL, special.task), *speech_rows(rest_speech)]
    targets += [IGNORED] * len(rest_text) + [int(i) for i in rest_speech] + [special.eos]
    return Layout(rows, targets)


def choose_bistream(
    text_lengths: Sequence[int],
    speech_lengths: Sequence[int],
    mix_ratio: tuple[int, int],
    uniforms: Sequence[float],
) -> list[bool]:
    """Which items of a batch are laid out as bistream: half of those whose speech is long enough.

    `uniforms` are the caller's random numbers in [0, 1), one an item.
    """
    n, m = mix_ratio
    return [
        u < 0.5 and speech / text > m / n
        for text, speech, u in zip(text_lengths, speech_lengths, uniforms, strict=True)
    ]


def length_limits(text_length: int, min_ratio: float, max_ratio: float) -> tuple[int, int]:
    """Fewest and most speech tokens for `text_length` text tokens (prompt excluded)."""
    return math.floor(text_length * min_ratio), math.floor(text_length * max_ratio)
