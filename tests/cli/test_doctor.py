from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosyvoice.checkpoint.released import load_spk2info
from cosyvoice.cli import doctor
from cosyvoice.engine.pipeline import TTS
from cosyvoice.export.bundle import convert

Run = Callable[..., Any]


def test_a_sound_installation(run: Run, quick_load: TTS) -> None:
    ran = run("doctor")
    assert ran.code == 0, ran.out
    for topic in ("python", "torch", "llm.safetensors", "voices", "player", "speech"):
        assert topic in ran.out
    assert "FAIL" not in ran.out


def test_missing_model_files_fail(run: Run, quick_load: TTS, tiny_model_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model_dir, tmp_path / "copy")
    (copy / "campplus.onnx").unlink()
    ran = run("doctor", "--no-synthesis", "--model", copy)
    assert ran.code == 1
    assert "FAIL" in ran.out and "campplus.onnx is missing, which cloning needs" in ran.out


def test_bundles_are_told_apart(tiny_model_dir: Path, tmp_path: Path) -> None:
    def findings(directory: Path) -> str:
        return "\n".join(line.finding for line in doctor.examine(directory, synthesis=False))

    assert "it runs on PyTorch" in findings(tiny_model_dir)
    convert(tiny_model_dir, tmp_path / "bundle", measure=False)
    assert "converted for the native engine, fp32" in findings(tmp_path / "bundle")
    (tmp_path / "bundle" / "flow.onnx").write_bytes(b"")
    assert "flow.onnx has 0 bytes" in findings(tmp_path / "bundle")


def test_speakers_of_a_table_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def speakers(directory: Path) -> list[tuple[str, str]]:
        lines = doctor.examine(directory, synthesis=False)
        return [(line.verdict.value, line.finding) for line in lines if line.topic == "speakers"]

    model = shutil.copytree(Path(__file__).parents[1] / "data" / "parity" / "v3" / "model", tmp_path / "model")
    count = len(load_spk2info(model / "spk2info.pt"))
    assert speakers(model) == [("ok", f"{count} in spk2info.pt")]
    convert(model, tmp_path / "bundle", measure=False)
    assert speakers(tmp_path / "bundle") == [("ok", f"{count} in speakers.safetensors")]
    (model / "spk2info.pt").write_bytes(b"none")
    assert [verdict for verdict, _ in speakers(model)] == ["FAIL"]
    (model / "spk2info.pt").unlink()
    assert speakers(model) == []


def test_a_model_that_cannot_be_loaded_fails(run: Run, tmp_path: Path) -> None:
    ran = run("doctor", "--model", tmp_path)
    assert ran.code == 1
    assert [line.split()[1] for line in ran.out.splitlines() if line.startswith("FAIL")] == ["model", "speech"]


def test_a_missing_package_fails(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    found = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "soxr" else found(name))
    failed = [line for line in doctor.examine(tiny_model_dir, synthesis=False) if line.verdict is doctor.Verdict.FAIL]
    assert [line.finding for line in failed] == ["missing; install it with: pip install soxr"]
