from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosyvoice.evaluation.wer import (
    WordErrors,
    align_words,
    all_deleted,
    corpus_rate,
    mean_rate,
    word_errors,
)


@pytest.mark.parametrize(
    ("expected", "heard", "edits"),
    [
        ("a b c", "a b c", (0, 0, 0)),
        ("a b c", "a x c", (1, 0, 0)),
        ("a b c", "a b b c", (0, 1, 0)),
        ("a b c", "a c", (0, 0, 1)),
        ("a b c", "", (0, 0, 3)),
        ("", "a b", (0, 2, 0)),
        ("a b c d", "b c d e", (0, 1, 1)),
        ("a b", "c d e", (2, 1, 0)),
    ],
)
def test_edits_are_told_apart(expected: str, heard: str, edits: tuple[int, int, int]) -> None:
    assert align_words(expected.split(), heard.split()) == WordErrors(*edits, len(expected.split()))


def _distance(a: str, b: str) -> int:
    @cache
    def go(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(go(i - 1, j) + 1, go(i, j - 1) + 1, go(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return go(len(a), len(b))


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_the_alignment_is_the_shortest(expected: str, heard: str) -> None:
    found = align_words(list(expected), list(heard))
    assert found.errors == _distance(expected, heard)
    # Insertions and deletions explain the difference in length.
    assert found.insertions - found.deletions == len(heard) - len(expected)


def test_case_and_digits_are_no_errors() -> None:
    assert word_errors("There are 3 dogs.", "there are three dogs").errors == 0


def test_mean_weighs_utterances_and_corpus_weighs_words() -> None:
    results = [word_errors("a b c d e f g h", "a b c d e f g h"), word_errors("one two", "one")]
    assert mean_rate(results) == pytest.approx(0.25)
    assert corpus_rate(results) == pytest.approx(0.1)


def test_no_utterances_have_no_rate() -> None:
    assert mean_rate([]) is None
    assert corpus_rate([]) is None


def test_failure_scores_one_and_insertions_more() -> None:
    assert all_deleted("Please open it.").rate == 1.0
    assert word_errors("yes", "no no no").rate == 3.0
    assert word_errors("...", "noise").rate == 1.0
