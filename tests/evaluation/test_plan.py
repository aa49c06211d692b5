from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cosyvoice.audio.io import write_audio
from cosyvoice.errors import VoiceError
from cosyvoice.evaluation.held_out import HeldOutSpeaker, Recording
from cosyvoice.evaluation.plan import find_references, plan_held_out, plan_presets, plan_references


def test_presets_stand_beside_their_originals(fakes: SimpleNamespace) -> None:
    plan = plan_presets(["rms", "en-slt", "anna"], fakes.sentences, fakes.sources, fakes.embed)
    assert [(t.voice, t.text) for t in plan.trials] == [
        (v, s) for v in ("rms", "en-slt", "anna") for s in fakes.sentences
    ]
    assert {t.voice: t.original for t in plan.trials} == {"rms": "rms", "en-slt": "slt", "anna": "rms"}
    # A voice without an original of its own is compared in length and words, not in likeness.
    assert {t.voice: t.meant for t in plan.trials} == {"rms": "rms", "en-slt": "slt", "anna": None}
    assert set(plan.enrolled["preset"]) == {"rms", "slt"}


def test_named_originals(fakes: SimpleNamespace) -> None:
    plan = plan_presets(["anna"], fakes.sentences, fakes.sources, fakes.embed, {"anna": "slt"})
    assert {(t.original, t.meant) for t in plan.trials} == {("slt", "slt")}


def test_without_synthesisers_nothing_is_compared(fakes: SimpleNamespace) -> None:
    plan = plan_presets(["rms"], fakes.sentences, fakes.no_sources, fakes.embed)
    assert [(t.original, t.original_audio, t.meant) for t in plan.trials] == [("", None, None)] * 2
    assert plan.enrolled["preset"] == {}


def test_references_are_cloned_and_enrolled(fakes: SimpleNamespace, tmp_path: Path) -> None:
    for name, frequency in (("low", 150.0), ("high", 600.0)):
        write_audio(tmp_path / f"{name}.wav", fakes.tone(frequency, 2.0), fakes.rate)
        (tmp_path / f"{name}.txt").write_text("what it\nsays\n")
    (tmp_path / "notes.md").write_text("no reference")
    references = find_references(tmp_path)
    assert [(path.name, text) for path, text in references] == [
        ("high.wav", "what it says"),
        ("low.wav", "what it says"),
    ]
    plan = plan_references(fakes.tts, references, fakes.sentences, fakes.sources, fakes.embed)
    assert fakes.tts.frequencies["low"] == pytest.approx(150, abs=1)
    assert {(t.group, t.voice, t.meant, t.original) for t in plan.trials} == {
        ("reference", "low", "low", "rms"), ("reference", "high", "high", "rms"),
    }  # fmt: skip
    assert set(plan.enrolled["reference"]) == {"low", "high"}


def test_bad_reference_folders(fakes: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(VoiceError, match="not a folder"):
        find_references(tmp_path / "none")
    with pytest.raises(VoiceError, match="no recording"):
        find_references(tmp_path)
    write_audio(tmp_path / "a.wav", fakes.tone(150, 1), fakes.rate)
    with pytest.raises(VoiceError, match=r"a\.txt"):
        find_references(tmp_path)


def test_held_out_speakers_speak_their_own_texts(fakes: SimpleNamespace, tmp_path: Path) -> None:
    def recording(identifier: str, text: str, frequency: float) -> Recording:
        return Recording(identifier, text, fakes.tone(frequency, 1.0), fakes.rate)

    speaker = HeldOutSpeaker(
        "eva",
        recording("r", "The reference.", 500),
        (recording("s", fakes.sentences[0], 500),),
        (recording("e", "Enrolled.", 500), recording("f", "Too.", 520)),
    )
    plan = plan_held_out(fakes.tts, [speaker], fakes.embed, tmp_path)
    (trial,) = plan.trials
    assert (trial.voice, trial.text, trial.original, trial.meant) == ("eva", fakes.sentences[0], "s", "eva")
    assert (tmp_path / "eva.wav").is_file()
    enrolled = plan.enrolled["held-out"]["eva"]
    np.testing.assert_allclose(enrolled, [np.cos(510 / 400), np.sin(510 / 400)], atol=5e-3)


def test_plans_add_up(fakes: SimpleNamespace) -> None:
    one = plan_presets(["rms"], fakes.sentences, fakes.sources, fakes.embed)
    two = plan_presets(["slt"], fakes.sentences, fakes.sources, fakes.embed, group="other")
    assert len((one + two).trials) == 4
    assert set((one + two).enrolled) == {"preset", "other"}
