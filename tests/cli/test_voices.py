from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosyvoice.engine.pipeline import TTS

Run = Callable[..., Any]


@pytest.fixture
def recording(write_wav: Callable[..., Path], make_speech: Callable[..., np.ndarray]) -> Path:
    return write_wav(make_speech(2.0))


def test_the_life_of_a_voice(run: Run, quick_load: TTS, home: Path, recording: Path) -> None:
    ran = run("voices", "add", "joe", recording, "--gender", "male", "--consent", "by himself")
    assert ran.code == 0, ran.err
    assert (home / "voices" / "joe.safetensors").is_file()
    listed = run("voices", "list").out.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["anna", "model"], ["bert", "model"], ["joe", "you"]]
    shown = run("voices", "show", "joe").out
    assert "by himself" in shown and "cloned from ref.wav" in shown and "192 values" in shown
    assert run("voices", "remove", "joe").code == 0
    assert "joe" not in run("voices", "list").out


def test_listing_loads_no_network(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import cosyvoice

    monkeypatch.setattr(cosyvoice, "load", lambda *_: pytest.fail("a model was loaded"))
    assert run("voices", "list").code == 0
    assert run("voices", "show", "anna").code == 0


def test_without_any_voice_the_cure_is_named(run: Run, tmp_path: Path) -> None:
    ran = run("voices", "list", "--model", tmp_path)
    assert ran.code == 0
    assert "cosyvoice voices add" in ran.err


def test_a_damaged_voice_does_not_hide_the_others(run: Run, home: Path) -> None:
    (home / "voices").mkdir(parents=True)
    (home / "voices" / "bad.safetensors").write_bytes(b"x")
    out = run("voices", "list").out
    assert "anna" in out and "damaged" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "anna", "{ref}"], "already"),
        (["add", "anna", "{ref}", "--force"], "already"),
        (["add", "../joe", "{ref}"], "cannot be the name"),
        (["add", "joe", "{ref}x"], "does not exist"),
        (["add", "joe", "{ref}", "--transcript", "no"], "too little"),
        (["show", "ana"], "did you mean 'anna'"),
        (["remove", "anna"], "cannot be removed"),
        (["remove", "joe"], "no voice 'joe'"),
    ],
)
def test_bad_input_is_named(
    run: Run, quick_load: TTS, home: Path, recording: Path, arguments: list[str], message: str
) -> None:
    ran = run("voices", *(argument.replace("{ref}", str(recording)) for argument in arguments))
    assert ran.code == 2
    assert message in ran.err
    assert not (home / "voices").exists()


def test_ones_own_voice_can_be_replaced(run: Run, quick_load: TTS, recording: Path) -> None:
    assert run("voices", "add", "joe", recording, "--description", "first").code == 0
    assert run("voices", "add", "joe", recording, "--description", "second").code == 2
    assert run("voices", "add", "joe", recording, "--description", "second", "--force").code == 0
    assert "second" in run("voices", "show", "joe").out
