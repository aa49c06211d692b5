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

from cosyvoice.config.model import LLMConfig, TransformerLMConfig
from cosyvoice.errors import ConfigError

IGNORED = -1
"""Target of a position that the loss skips."""


class Kind(IntEnum):
    """The table that a row is read from."""

    PAD = 0
    TEXT = 1
    SPEECH = 2
    SPECIAL = 3
    SPEAKER = 4
    """Made of the speaker embedding; its index is 0."""


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
    fill: int | None
    """By which the model asks for more text; None: it reads no text that is still arriving."""
    stop_ids: range
    """Every output id that ends an utterance."""


def special_tokens(config: LLMConfig | TransformerLMConfig) -> SpecialTokens:
    """The ids that a configuration has.

    Where sos and task are rows of the speech embedding itself, they stand behind the V speech tokens: sos V, eos V+1,
    task V+2, fill V+3, the rest reserved. Where they have a table of their own, they are its rows 0 and 1, and eos is
    the output V; the output V+2 is fill for a model that has so many.

    Raises `ConfigError` where there are too few outputs.
    """
    size, extra = config.speech_token_size, config.speech_extra_tokens
    stop_ids = range(size, size + extra)
    if config.kind == "transformer":
        return SpecialTokens(sos=0, eos=size, task=1, fill=None, stop_ids=stop_ids)
    needed = 3 if config.task_embedding else 4
    if extra < needed:
        raise ConfigError(f"speech_extra_tokens is {extra}, sos, eos, task and fill need {needed} rows")
    if config.task_embedding:
        return SpecialTokens(sos=0, eos=size, task=1, fill=size + 2, stop_ids=stop_ids)
    return SpecialTokens(sos=size, eos=size + 1, task=size + 2, fill=size + 3, stop_ids=stop_ids)


class Layout(NamedTuple):
    """One training sequence: rows and, for each row, the output id that should follow it."""

    rows: list[Row]
    targets: list[int]


def text_rows(ids: Sequence[int]) -> list[Row]:
    return [Row(Kind.TEXT, int(i)) for i in ids]


def speech_rows(ids: Sequence[int]) -> list[Row]:
    return [Row(Kind.SPEECH, int(i)) for i in ids]


def prompt(text: Sequence[int], speech: Sequence[int], special: SpecialTokens, speaker: bool = False) -> list[Row]:
    """`[sos, speaker, text, task, speech]`, the speaker only if asked for."""
    speaker_rows = [Row(Kind.SPEAKER, 0)] if speaker else []
    return [
        Row(Kind.SPECIAL, special.sos),
        *speaker_rows,
        *text_rows(text),
        Row(Kind.SPECIAL, special.task),
        *speech_rows(speech),
    ]


def unistream(
    text: Sequence[int],
    speech: Sequence[int],
    special: SpecialTokens,
    instruct: Sequence[int] = (),
    speaker: bool = False,
) -> Layout:
    """`[sos, speaker, instruct, text, task, speech]`: task predicts the first speech token, the last one eos."""
    rows = prompt([*instruct, *text], speech, special, speaker)
    ignored = [IGNORED] * (len(rows) - len(speech) - 1)
    return Layout(rows, [*ignored, *(int(i) for i in speech), special.eos])


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
    `ConfigError`, as for a model without a fill token.
    """
    n, m = mix_ratio
    if special.fill is None:
        raise ConfigError("this model has no fill token, so text cannot be streamed; use the unistream layout")
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
