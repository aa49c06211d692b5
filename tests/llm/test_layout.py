"""Sequences of rows and targets, written out for vocabularies small enough to read."""

from __future__ import annotations

import pytest

from cosyvoice.config.model import LLMConfig, TransformerLMConfig
from cosyvoice.errors import ConfigError
from cosyvoice.llm.layout import (
    IGNORED,
    Kind,
    Row,
    SpecialTokens,
    bistream,
    choose_bistream,
    length_limits,
    special_tokens,
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


def test_unistream_with_a_speaker() -> None:
    layout = unistream([1], [7], SPECIAL, speaker=True)
    assert layout.rows == [SOS, Row(Kind.SPEAKER, 0), *text(1), TASK, *speech(7)]
    assert layout.targets == [X, X, X, 7, 101]


def test_special_tokens_of_the_generations() -> None:
    first = special_tokens(TransformerLMConfig(speech_token_size=40))
    assert first == SpecialTokens(sos=0, eos=40, task=1, fill=None, stop_ids=range(40, 41))
    second = special_tokens(LLMConfig(speech_token_size=40, speech_extra_tokens=3, task_embedding=True))
    assert second == SpecialTokens(sos=0, eos=40, task=1, fill=42, stop_ids=range(40, 43))
    third = special_tokens(LLMConfig(speech_token_size=40, speech_extra_tokens=9))
    assert third == SpecialTokens(sos=40, eos=41, task=42, fill=43, stop_ids=range(40, 49))


def test_bistream_needs_a_fill_token() -> None:
    with pytest.raises(ConfigError, match="no fill token"):
        bistream([1], [7], SpecialTokens(0, 40, 1, None, range(40, 41)), (5, 15))
