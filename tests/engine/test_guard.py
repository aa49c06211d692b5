from __future__ import annotations

import numpy as np
import pytest

from cosyvoice.engine.guard import Fault, Guard, distance

GUARD = Guard()


def first_fault(tokens: list[int], phones: int = 40, pace: float | None = 0.1) -> tuple[Fault | None, int]:
    watch = GUARD.watch(phones, pace, 25)
    for index, token in enumerate(tokens):
        fault = watch.push(token)
        if fault is not None:
            return fault, index
    return watch.finish(), len(tokens)


def test_ordinary_speech_passes() -> None:
    tokens = np.random.default_rng(0).integers(0, 700, 100).tolist()
    assert first_fault(tokens) == (None, 100)


def test_a_runaway_is_stopped_at_its_limit() -> None:
    tokens = np.random.default_rng(0).integers(0, 700, 1000).tolist()
    assert first_fault(tokens) == (Fault.RUNAWAY, 160)


@pytest.mark.parametrize("count", [0, 20, 49])
def test_too_few_tokens(count: int) -> None:
    assert first_fault(list(range(count)))[0] is Fault.STARVATION


def test_no_token_is_always_too_few() -> None:
    assert first_fault([], 1, 0.05)[0] is Fault.STARVATION
    assert first_fault([1], 1, 0.05)[0] is None


@pytest.mark.parametrize("period", [1, 2, 7, 12])
def test_loops_are_found(period: int) -> None:
    start = list(range(500, 540))
    fault, index = first_fault(start + list(range(period)) * 60)
    assert fault is Fault.REPETITION
    assert index < len(start) + max(30, 3 * period) + period


def test_limits_are_wider_where_the_pace_is_not_known() -> None:
    tokens = np.random.default_rng(0).integers(0, 700, 1000).tolist()
    assert first_fault(tokens[:46], phones=40, pace=None)[0] is None
    assert first_fault(tokens, phones=40, pace=None) == (Fault.RUNAWAY, 195)


def test_short_repetitions_are_speech() -> None:
    tokens = [1] * 20 + list(range(50)) + [3, 4, 5] * 6 + list(range(60, 80))
    assert first_fault(tokens)[0] is None


def test_the_pace_of_the_reference_counts() -> None:
    assert GUARD.expected_seconds(100) == pytest.approx(8.5)
    assert GUARD.expected_seconds(100, 0.06) == pytest.approx(6.0)
    assert GUARD.expected_seconds(100, 2.0) == pytest.approx(15.0)
    assert GUARD.expected_seconds(100, 0.0) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("scores", "fault"),
    [
        ((0.9, 0.1, 0.1, 0.9), Fault.OMISSION),
        ((0.9, 0.9, 0.1, 0.0), Fault.OMISSION),
        ((0.1, 0.9, 0.1, 0.9), None),
        ((0.2, 0.2, 0.2, 0.2), None),
    ],
)
def test_words_in_a_row_that_are_not_heard_were_left_out(scores: tuple[float, ...], fault: Fault | None) -> None:
    words = [("HH", "AW1", "S", "T"), ("G", "R", "IY1", "N"), ("R", "UW1", "F", "S"), ("W", "AY1", "T", "ER0")]
    assert GUARD.omission(words, scores) is fault


def test_a_short_word_is_heard_by_chance_amid_others_that_were_left_out() -> None:
    words = [("HH", "AW1"), ("IH1", "Z"), ("Y", "ER1", "Z"), ("F", "AA1", "DH", "ER0")]
    assert GUARD.omission(words, (0.0, 0.5, 0.0, 0.0)) is Fault.OMISSION
    assert GUARD.omission(words, (0.0, 0.5, 0.9, 0.0)) is None


def test_silence_inside_is_found() -> None:
    tone = np.full(24000, 0.1, np.float32)
    long, short = np.zeros(40000, np.float32), np.zeros(20000, np.float32)
    assert GUARD.audio_fault(np.concatenate([tone, long, tone]), 24000) is Fault.SILENCE
    assert GUARD.audio_fault(np.concatenate([tone, short, tone]), 24000) is None
    assert GUARD.audio_fault(np.concatenate([long, tone, long]), 24000) is None
    assert GUARD.audio_fault(long, 24000) is Fault.SILENCE


def test_the_attempt_nearest_to_the_expected_length_is_the_best() -> None:
    assert distance(range(90), 100) < distance(range(80), 100) < distance(range(200), 100)
    assert np.isfinite(distance([], 100))
