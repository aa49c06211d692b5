from __future__ import annotations

from pathlib import Path
from typing import Any

from cosyvoice.config.bundle import read_bundle

MODEL = Path(__file__).parents[1] / "data" / "parity" / "v3" / "model"


def test_converting_prints_size_and_cost(run: Any, tmp_path: Path) -> None:
    result = run("convert", MODEL, tmp_path / "out", "--precision", "int8")
    assert result.code == 0, result.err
    assert "int8" in result.out and "llm_kl" in result.out and "MB" in result.out
    assert read_bundle(tmp_path / "out").precision == "int8"


def test_bad_arguments(run: Any, tmp_path: Path) -> None:
    result = run("convert", MODEL, tmp_path / "out", "--precision", "int3")
    assert result.code == 2 and "choose one of fp32" in result.err
    result = run("convert", tmp_path / "none", tmp_path / "out")
    assert result.code == 2 and "does not exist" in result.err
    assert not (tmp_path / "out").exists()
