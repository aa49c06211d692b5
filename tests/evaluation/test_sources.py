from __future__ import annotations

import shutil

import pytest

from cosyvoice.errors import MissingDependencyError
from cosyvoice.evaluation import sources
from cosyvoice.evaluation.sources import DEFAULT_SOURCE, DebianSources, original_of

NAMES = ("rms", "slt", "slt_hts", "kal16")


@pytest.mark.parametrize(
    ("voice", "original"),
    [
        ("rms", "rms"), ("en-slt", "slt"), ("us_SLT-hts.1", "slt_hts"), ("kal16", "kal16"), ("salt", None), ("", None),
    ],
)  # fmt: skip
def test_original_by_name(voice: str, original: str | None) -> None:
    assert original_of(voice, NAMES) == original


def test_named_original_wins() -> None:
    assert original_of("rms", NAMES, {"rms": "slt"}) == "slt"
    assert original_of("anna", NAMES, {"anna": "slt"}) == "slt"


def test_nothing_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingDependencyError("no flite")

    monkeypatch.setattr(sources, "Flite", missing)
    monkeypatch.setattr(shutil, "which", lambda command: None)
    found = DebianSources()
    assert found.names == ()
    assert "apt-get install flite festival" in found.missing


def test_flite_speaks_and_skips_what_it_cannot_say() -> None:
    found = DebianSources()
    if DEFAULT_SOURCE not in found.names:
        pytest.skip("flite is not installed")
    spoken = found.speak(DEFAULT_SOURCE, ["It’s a café.", "Good morning."])
    assert all(audio is not None and len(audio.samples) > 0.3 * audio.sample_rate for audio in spoken)


def test_one_bad_sentence_does_not_spoil_a_festival_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = object()

    def speak(identifier: str, texts: list[str]) -> list[object]:
        if "bad" in texts:
            raise ValueError("the synthesiser's words and segments disagree")
        return [spoken for _ in texts]

    monkeypatch.setattr(sources, "Flite", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda command: "/usr/bin/festival")
    monkeypatch.setattr(sources, "festival_speak", speak)
    monkeypatch.setattr(sources, "_audio", lambda item: item)
    assert DebianSources().speak("kal_diphone", ["good", "bad", "fine"]) == [spoken, None, spoken]
