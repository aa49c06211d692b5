from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import cosyvoice
from cosyvoice import FlowOptions, VocoderOptions
from cosyvoice.cli import player
from cosyvoice.engine.pipeline import TTS

Run = Callable[..., Any]


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_sentence_becomes_a_file(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "a.wav"
    ran = run("say", "Hello there.", "-o", out, "--seed", 1, "--threads", 1)
    assert ran.code == 0, ran.err
    samples, rate = soundfile.read(out)
    assert rate == 24000
    seconds = len(samples) / rate
    assert ran.out.startswith(f"{out}: {seconds:.2f} s, RTF ")
    assert "time to first audio" in ran.out and "seed 1" in ran.out


def test_the_same_seed_writes_the_same_file(run: Run, quick_load: TTS, tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        assert run("say", "Hello.", "-o", tmp_path / name, "--seed", 5).code == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize("arguments", [["-"], []])
def test_text_comes_through_a_pipe(run: Run, quick_load: TTS, tmp_path: Path, arguments: list[str]) -> None:
    run("say", "Hello.", "-o", tmp_path / "a.wav", "--seed", 5)
    ran = run("say", *arguments, "-o", tmp_path / "b.wav", "--seed", 5, stdin=b"Hello.\n")
    assert ran.code == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_text_comes_from_a_file(run: Run, quick_load: TTS, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Hello.", encoding="utf-8")
    ran = run("say", "--file", tmp_path / "text.txt", "-o", tmp_path / "a.flac", "--seed", 5, "--voice", "bert")
    assert ran.code == 0
    assert soundfile.info(tmp_path / "a.flac").format == "FLAC"


def test_speech_goes_through_a_pipe(run: Run, quick_load: TTS) -> None:
    ran = run("say", "Hello.", "-o", "-", "--seed", 5)
    assert ran.code == 0
    samples, _ = soundfile.read(io.BytesIO(ran.data))
    assert len(samples) > 1000
    assert "seed 5" in ran.err


def test_a_recording_is_spoken_like(
    run: Run, quick_load: TTS, tmp_path: Path, write_wav: Callable[..., Path], make_speech: Callable[..., np.ndarray]
) -> None:
    ref = write_wav(make_speech(2.0))
    out = tmp_path / "a.wav"
    ran = run("say", "Hello.", "-o", out, "--ref", ref, "--transcript", "please call me today", "--seed", 1)
    assert ran.code == 0, ran.err
    assert out.stat().st_size > 1000


def test_a_stream_is_collected_and_drawn(run: Run, quick_load: TTS, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "a.ogg", tmp_path / "a.png"
    ran = run("say", "Hello.", "--stream", "-o", out, "--spectrogram", picture, "--seed", 1)
    assert ran.code == 0, ran.err
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert soundfile.info(out).format == "OGG"


def test_subtitles_are_written_beside_the_speech(run: Run, tmp_path: Path) -> None:
    out, subtitles = tmp_path / "a.wav", tmp_path / "a.srt"
    ran = run("say", "Hello there. Come in!", "-o", out, "--subtitles", subtitles, "--seed", 1, "--threads", 1)
    assert ran.code == 0, ran.err
    blocks = subtitles.read_text().strip().split("\n\n")
    assert " ".join(block.split("\n")[2] for block in blocks) == "Hello there. Come in!"
    assert len(blocks) > 1


def test_steps_of_the_flow_and_its_engine(
    run: Run, tiny_tts: TTS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run("say", "Hello.", "-o", tmp_path / "a.wav", "--steps", 3)
    assert ran.code == 2 and "belong to the native engine" in ran.err
    told: dict[str, Any] = {}
    monkeypatch.setattr(cosyvoice, "load", lambda *_, **options: told.update(options) or tiny_tts)
    assert run("say", "Hello.", "-o", tmp_path / "a.wav", "--steps", 3, "--engine", "openvino").code == 0
    assert told["flow"] == FlowOptions(n_timesteps=3, engine="openvino")
    assert told["vocoder"] == VocoderOptions(engine="openvino")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Hello."], "nothing to do with the speech"),
        (["Hello.", "-o", "{tmp}/a.xyz"], "does not say its format"),
        (["Hello.", "-o", "{tmp}"], "does not say its format"),
        (["Hello.", "-o", "{tmp}/none/a.wav"], "does not exist"),
        (["Hello.", "-o", "/proc/a.wav"], "cannot be written"),
        (["Hello.", "-o", "{tmp}/a.wav", "--spectrogram", "{tmp}/a.jpg"], "let the name end with .png"),
        (["Hello.", "-o", "{tmp}/a.wav", "--subtitles", "{tmp}/a.txt"], "use one of srt, vtt"),
        (["Hello.", "-o", "{tmp}/a.wav", "--subtitles", "{tmp}/none/a.srt"], "does not exist"),
        (["你好", "-o", "{tmp}/a.wav", "--subtitles", "{tmp}/a.srt"], "English text only"),
        (["Hello.", "-o", "{tmp}/a.wav", "--voice", "x", "--ref", "y"], "two voices"),
        (["Hello.", "-o", "{tmp}/a.wav", "--transcript", "x"], "give it with --ref"),
        (["Hello.", "-o", "{tmp}/a.wav", "--ref", "{tmp}/none.wav"], "none.wav does not exist"),
        (["Hello.", "-o", "{tmp}/a.wav", "--voice", "clara"], "no voice 'clara'"),
        (["Hello.", "-o", "{tmp}/a.wav", "--speed", "9"], "speed 9 is out of range"),
        (["Hello.", "-o", "{tmp}/a.wav", "--instruct", "Whisper."], "follows no instructions"),
        (["Hello.", "--file", "{tmp}/t.txt", "-o", "{tmp}/a.wav"], "give one of them"),
        (["--file", "{tmp}/none.txt", "-o", "{tmp}/a.wav"], "cannot be read"),
        (["...", "-o", "{tmp}/a.wav"], "only punctuation"),
        (["", "-o", "{tmp}/a.wav"], "is empty"),
        (["-", "-o", "{tmp}/a.wav"], "is empty"),
        (["你好", "-o", "{tmp}/a.wav"], "English only"),
    ],
)
def test_bad_input_is_named_and_leaves_no_file(
    run: Run, quick_load: TTS, tmp_path: Path, arguments: list[str], message: str
) -> None:
    before = files(tmp_path)
    ran = run("say", *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert files(tmp_path) == before


def test_input_that_is_no_text(run: Run, quick_load: TTS, tmp_path: Path) -> None:
    (tmp_path / "latin1.txt").write_bytes("Grüße".encode("latin-1"))
    ran = run("say", "--file", tmp_path / "latin1.txt", "-o", tmp_path / "a.wav")
    assert (ran.code, "no UTF-8 text" in ran.err) == (2, True)
    ran = run("say", "-o", tmp_path / "a.wav", stdin=b"\xff\xfe")
    assert (ran.code, "no UTF-8 text" in ran.err) == (2, True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_the_old_file(
    run: Run, quick_load: TTS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    out = tmp_path / "a.wav"
    out.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(quick_load.model.stages.vocoder, "step", fail)
    if error is KeyboardInterrupt:
        assert run("say", "Hello.", "-o", out).code == 130
    else:
        with pytest.raises(RuntimeError):
            run("say", "Hello.", "-o", out)
    assert out.read_bytes() == b"old"
    assert files(tmp_path) == ["a.wav"]


def test_an_interrupt_while_writing_leaves_the_old_file(
    run: Run, quick_load: TTS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    out = tmp_path / "a.wav"
    out.write_bytes(b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    assert run("say", "Hello.", "-o", out).code == 130
    assert out.read_bytes() == b"old"
    assert files(tmp_path) == ["a.wav"]


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_speech_is_played(
    run: Run, quick_load: TTS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: list[str]
) -> None:
    program = tmp_path / "aplay"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/played\n")
    program.chmod(0o755)
    monkeypatch.setattr(player.shutil, "which", lambda name: str(program) if name == "aplay" else None)
    ran = run("say", "Hello.", "--play", "-o", tmp_path / "a.wav", "--seed", 1, *stream)
    assert ran.code == 0, ran.err
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    played = np.frombuffer((tmp_path / "played").read_bytes(), "<i2")
    assert len(played) == len(samples)
    assert np.abs(played.astype(int) - samples).max() <= 2
