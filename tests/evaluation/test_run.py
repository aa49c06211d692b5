from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cosyvoice.audio.io import read_audio
from cosyvoice.evaluation.plan import plan_presets
from cosyvoice.evaluation.results import UtteranceResult
from cosyvoice.evaluation.run import Evaluation, find_failure


def _run(fakes: SimpleNamespace, voices: list[str], keep: Path | None = None) -> list[UtteranceResult]:
    plan = plan_presets(voices, fakes.sentences, fakes.sources, fakes.embed)
    return list(Evaluation(fakes.tts, fakes.recogniser, fakes.embed, seed=7, keep_audio=keep).run(plan))


def test_perfect_speech_scores_perfectly(fakes: SimpleNamespace) -> None:
    for result in _run(fakes, ["rms", "slt"]):
        assert result.errors.errors == 0
        assert result.failure == ""
        assert result.duration == pytest.approx(fakes.seconds_of(result.text))
        assert result.length_ratio == pytest.approx(1.0)
        assert (result.rtf, result.time_to_first_audio, result.retries) == (0.5, 0.1, 0)
        assert (result.nearest, result.meant, result.original) == (result.voice,) * 3
        assert result.similarity == pytest.approx(1.0, abs=1e-4)
        assert result.original_errors is not None
        assert result.original_errors.errors == 0
        assert result.artefacts is not None
        assert result.artefacts.faults == []


def test_every_trial_is_spoken_once_with_the_seed_after_a_warm_up(fakes: SimpleNamespace) -> None:
    results = _run(fakes, ["rms", "slt"])
    first, *rest = fakes.tts.calls
    assert first == rest[0]
    assert [(voice, text) for voice, text, _ in rest] == [(r.voice, r.text) for r in results]
    assert {seed for *_, seed in fakes.tts.calls} == {7}


def test_an_original_is_recognised_once(fakes: SimpleNamespace) -> None:
    # Both voices have the same original: two sentences each of speech, and two of the original.
    _run(fakes, ["rms", "anna"])
    assert fakes.recogniser.calls == 4 + 2


@pytest.mark.parametrize(
    ("fault", "failure"),
    [("error", "GenerationError: nothing usable"), ("empty", "empty"), ("nan", "not finite"), ("long", "too long")],
)
def test_failures_are_counted_not_dropped(fakes: SimpleNamespace, fault: str, failure: str) -> None:
    fakes.tts.faults["rms", fakes.sentences[1]] = fault
    good, bad = _run(fakes, ["rms"])
    assert good.failure == ""
    assert bad.failure.startswith(failure)
    assert (bad.errors.rate, bad.errors.deletions) == (1.0, 7)
    assert bad.nearest is None
    assert bad.rtf is None
    assert bad.meant == "rms"
    assert bad.original_errors is not None
    assert bad.original_errors.errors == 0


def test_retries_and_wrong_speakers_are_seen(fakes: SimpleNamespace) -> None:
    fakes.tts.faults["slt", fakes.sentences[0]] = "retry"
    fakes.tts.frequencies["slt"] = 115.0
    results = [r for r in _run(fakes, ["rms", "slt"]) if r.voice == "slt"]
    assert [r.retries for r in results] == [2, 0]
    assert {r.nearest for r in results} == {"rms"}


def test_audio_is_kept_where_asked(fakes: SimpleNamespace, tmp_path: Path) -> None:
    fakes.tts.faults["rms", fakes.sentences[1]] = "nan"
    results = _run(fakes, ["rms", "slt"], tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000-rms.wav", "0002-slt.wav", "0003-slt.wav"]
    samples, rate = read_audio(tmp_path / "0002-slt.wav")
    assert len(samples) / rate == pytest.approx(results[2].duration)


def test_embeddings_are_kept_by_voice(fakes: SimpleNamespace) -> None:
    plan = plan_presets(["rms", "anna"], fakes.sentences, fakes.sources, fakes.embed)
    evaluation = Evaluation(fakes.tts, fakes.recogniser, fakes.embed)
    list(evaluation.run(plan))
    assert {voice: len(e) for voice, e in evaluation.embeddings["preset"].items()} == {"rms": 2, "anna": 2}


@pytest.mark.parametrize(
    ("samples", "failure"),
    [
        (np.zeros(0), "empty"),
        (np.full(100, 1e-5), "empty"),
        (np.array([0.5, np.inf]), "not finite"),
        (np.full(30 * 100 + 1, 0.5), "too long"),
        (np.full(30 * 100, 0.5), ""),
    ],
)
def test_find_failure(samples: np.ndarray, failure: str) -> None:
    assert find_failure(samples.astype(np.float32), 100) == failure
