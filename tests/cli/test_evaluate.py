from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from cosyvoice.audio.io import write_audio
from cosyvoice.cli.evaluate import evaluate
from cosyvoice.errors import ConfigError, CosyVoiceError, OutputError, VoiceError
from cosyvoice.evaluation.sources import Audio


class Recogniser:
    name = "fake 1"

    def transcribe(self, samples: np.ndarray, sample_rate: int) -> str:
        return "hello there friends"


class Sources:
    names: tuple[str, ...] = ("rms",)
    missing = ""

    def speak(self, name: str, texts: Sequence[str]) -> list[Audio | None]:
        t = np.arange(24000) / 24000
        return [Audio((0.3 * np.sin(2 * np.pi * 150 * t)).astype(np.float32), 24000) for _ in texts]


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosyvoice.evaluation.recogniser.PocketSphinx", Recogniser)
    monkeypatch.setattr("cosyvoice.evaluation.sources.DebianSources", Sources)


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("Hello there, friends.\nGood morning.\nNever spoken.\n")
    return path


def _run(*arguments: object) -> str:
    app = typer.Typer()
    app.command()(evaluate)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, CosyVoiceError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_everything_is_written(tiny_model_dir: Path, sentences: Path, tmp_path: Path, make_speech) -> None:
    references = tmp_path / "refs"
    references.mkdir()
    write_audio(references / "eva.wav", make_speech(3.0), 24000)
    (references / "eva.txt").write_text("This is what the reference says, word by word.")
    out = tmp_path / "new" / "out"
    output = _run(
        "--out", out, "--model", tiny_model_dir, "--sentences", sentences, "--limit", 2, "--voices", "anna",
        "--original", "anna=rms", "--refs", references, "--keep-audio",
    )  # fmt: skip
    lines = [json.loads(line) for line in (out / "utterances.jsonl").read_text().splitlines()]
    assert [(line["group"], line["voice"], line["text"]) for line in lines] == [
        (group, voice, text)
        for group, voice in (("preset", "anna"), ("reference", "eva"))
        for text in ("Hello there, friends.", "Good morning.")
    ]
    assert all(line["original_recognised"] == "hello there friends" for line in lines)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["groups"]["preset"]["all"]["utterances"] == 2
    assert summary["settings"]["recogniser"] == "fake 1"
    assert summary["notes"] == []
    assert "| preset | anna | 2 |" in (out / "report.md").read_text()
    for name in ("wer.png", "similarity-preset.png", "similarity-reference.png"):
        assert (out / name).is_file()
    assert len(list((out / "audio").iterdir())) == sum(line["duration"] > 0 for line in lines)
    assert "anna" in output


def test_all_voices_and_no_originals(
    tiny_model_dir: Path, sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sources, "names", ())
    monkeypatch.setattr(Sources, "missing", "not all original synthesisers are installed")
    output = _run("--out", tmp_path, "--model", tiny_model_dir, "--sentences", sentences, "--limit", 1)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["groups"]["preset"]) == {"anna", "bert", "all"}
    assert "are left out" in summary["notes"][0]
    assert "note:" in output


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--voices", "anna,nobody"), VoiceError, "nobody"),
        (("--original", "anna"), ConfigError, "VOICE=SYNTHESISER"),
        (("--original", "anna=nobody"), VoiceError, "anna=nobody"),
        (("--corpus", "."), ConfigError, "no corpus"),
    ],
)
def test_bad_input(
    tiny_model_dir: Path, tmp_path: Path, arguments: tuple[str, ...], error: type[CosyVoiceError], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        _run("--out", tmp_path / "out", "--model", tiny_model_dir, *arguments)


def test_unwritable_output(tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        _run("--out", tmp_path / "file" / "out", "--model", tiny_model_dir)
