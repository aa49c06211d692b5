"""Sequences of rows and targets, written out for vocabularies small enough to read."""

from __future__ import annotations

import pytest

from cosyvoice.errors import ConfigError
from cosyvoice.llm.layout import (
    IGNORED,
    Kind,
    Row,
    SpecialTokens,
    bistream,
    choose_bistream,
    length_limits,
    unistream,
)

SPECIAL = SpecialTokens(sos=100, eos=101, task=102, fill=103, stop_ids=range(100, 110))
SOS, TASK = Row(Kind.SPECIAL, 100), Row(Kind.SPECIAL, 102)
X = IGNORED


def text(*ids: int) -> list[Row]:
    return [Row(Kind.TEXT, i) for i in ids]


def speech(*ids: int) -> list[Row]:
    return [Row(Kind.SPEECH, i) for i in ids]


def test_unistream() -> None:
    layout = unistream([1, 2], [7, 8, 9], SPECIAL)
    assert layout.rows == [SOS, *text(1, 2), TASK, *speech(7, 8, 9)]
    assert layout.targets == [X, X, X, 7, 8, 9, 101]


def test_unistream_with_instruct() -> None:
    layout = unistream([1], [7], SPECIAL, instruct=[5, 6])
    assert layout.rows == [SOS, *text(5, 6, 1), TASK, *speech(7)]
    assert layout.targets == [X, X, X, X, 7, 101]


def test_bistream_with_a_rest() -> None:
    layout = bistream([1, 2, 3], [4, 5, 6, 7], SPECIAL, (2, 3), instruct=[9])
    assert layout.rows == [SOS, *text(9, 1, 2), *speech(4, 5, 6), *text(3), TASK, *speech(7)]
    assert layout.targets == [X, X, X, 4, 5, 6, 103, X, 7, 101]


def test_bistream_whose_last_block_has_no_text() -> None:
    layout = bistream([1, 2], [4, 5, 6, 7], SPECIAL, (2, 3))
    assert layout.rows == [SOS, *text(1, 2), *speech(4, 5, 6), TASK, *speech(7)]
    assert layout.targets == [X, X, 4, 5, 6, 103, 7, 101]


def test_bistream_needs_enough_speech() -> None:
    with pytest.raises(ConfigError, match="unistream layout"):
        bistream([1, 2, 3, 4], [5, 6, 7, 8, 9], SPECIAL, (2, 3))


def test_choice_needs_chance_and_length() -> None:
    chosen = choose_bistream([4, 4, 4], [7, 7, 6], (2, 3), [0.49, 0.5, 0.0])
    assert chosen == [True, False, False]


def test_length_limits_are_rounded_down() -> None:
    assert length_limits(3, 0.5, 1.9) == (1, 5)
