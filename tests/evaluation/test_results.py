from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cosyvoice.evaluation.artefacts import Artefacts
from cosyvoice.evaluation.results import UtteranceResult, summarise, summarise_voices
from cosyvoice.evaluation.wer import WordErrors

CLEAN = Artefacts(-60, -60, 0.0, 0.1, 0)
GOOD = UtteranceResult(
    "preset", "a", "one two three four", "one two three four", WordErrors(0, 0, 0, 4), duration=2.0, rtf=0.5,
    time_to_first_audio=0.2, original="rms", original_recognised="", original_errors=WordErrors(1, 0, 0, 4),
    length_ratio=1.1, similarity=0.8, nearest="rms", meant="rms", artefacts=CLEAN,
)  # fmt: skip
FAILED = UtteranceResult(
    "preset", "a", "one two", "", WordErrors(0, 0, 2, 2), failure="empty", retries=3, meant="rms"
)  # fmt: skip


def test_failures_stay_in_every_denominator() -> None:
    summary = summarise([GOOD, GOOD, GOOD, FAILED])
    assert (summary.utterances, summary.failures, summary.retries) == (4, 1, 3)
    assert summary.wer_mean == pytest.approx(0.25)
    assert summary.wer_corpus == pytest.approx(2 / 14)
    assert summary.length_in_range == pytest.approx(0.75)
    assert summary.nearest_accuracy == pytest.approx(0.75)
    assert summary.original_wer_mean == pytest.approx(0.25)
    assert summary.deletions == 2


def test_length_must_be_in_range_and_retries_spoil_at_once() -> None:
    results = [GOOD, replace(GOOD, length_ratio=1.6), replace(GOOD, length_ratio=0.5), replace(GOOD, retries=1)]
    summary = summarise(results)
    assert summary.length_in_range == pytest.approx(0.5)
    assert summary.length_in_range_without_retry == pytest.approx(0.25)


def test_rtf_is_all_time_over_all_audio() -> None:
    assert summarise([GOOD, replace(GOOD, duration=6.0, rtf=0.1)]).rtf == pytest.approx((1.0 + 0.6) / 8)


def test_what_was_not_measured_is_none() -> None:
    summary = summarise([FAILED])
    assert summary.rtf is None
    assert summary.similarity is None
    assert summary.original_wer_mean is None
    assert summary.nearest_accuracy == 0
    assert summarise([replace(GOOD, meant=None)]).nearest_accuracy is None


def test_faults_are_counted_by_utterance() -> None:
    faulty = replace(GOOD, artefacts=replace(CLEAN, clicks=5, tail_db=-3.0))
    assert summarise([faulty, faulty, GOOD]).faults == {"click": 2, "tail": 2}


def test_groups_and_voices() -> None:
    other = replace(GOOD, voice="b", errors=WordErrors(4, 0, 0, 4))
    groups = summarise_voices([GOOD, other, replace(GOOD, group="held-out", voice="c")])
    assert {group: list(voices) for group, voices in groups.items()} == {
        "preset": ["a", "b", "all"], "held-out": ["c", "all"],
    }  # fmt: skip
    assert groups["preset"]["all"].wer_mean == pytest.approx(0.5)


def test_a_line_of_json_holds_everything() -> None:
    line = json.loads(json.dumps(replace(GOOD, artefacts=replace(CLEAN, clicks=1)).as_json()))
    assert line["wer"] == 0
    assert line["original_wer"] == 0.25
    assert line["faults"] == ["click"]
    assert line["errors"] == {"substitutions": 0, "insertions": 0, "deletions": 0, "words": 4}
    assert json.loads(json.dumps(FAILED.as_json()))["failure"] == "empty"
