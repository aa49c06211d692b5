"""The command: its table, its file, its notes and its exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from cosyvoice.cli.main import main
from cosyvoice.cli.parity import parity
from cosyvoice.errors import ModelError, OutputError
from cosyvoice.parity import run as checks
from cosyvoice.parity.golden import ParityFolder, Row
from cosyvoice.parity.run import Check

DATA = Path(__file__).parents[1] / "data" / "parity"
ROWS = [
    Row("v3_llm", "zero_shot.logp", 2e-6, 1e-4),
    Row("v3_llm", "ids[0]", 0.0, 0.0),
    Row("v3_flow", "run.mel", 3e-7, 1e-4),
    Row("v3_flow", "run.mu", 1e-7, 1e-4),
]
FAILING = [
    Row("v3_hift", "wav", 2e-3, 1e-3),
    Row("v3_hift", "f0", float("inf"), 1e-3, "shape (1, 2), recorded (1, 3)"),
    Row("v3_hift", "source", 0.0, 1e-3),
]

Invoke = Callable[..., Result]


@pytest.fixture
def invoke() -> Invoke:
    app = typer.Typer()
    app.command()(parity)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one record that the test's own check reads."""
    root = tmp_path / "folder"
    (root / "golden").mkdir(parents=True)
    (root / "v3" / "model").mkdir(parents=True)
    (root / "golden" / "v3_llm.safetensors").touch()
    return root


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Row]], None]:
    """Let the only check yield given rows."""

    def tell(rows: list[Row]) -> None:
        def check(folder: ParityFolder, generation: str) -> Iterator[Row]:
            yield from rows

        monkeypatch.setattr(checks, "CHECKS", (Check("llm", check, ("{}_llm",)),))

    return tell


def test_the_worst_row_of_each_stage_and_the_counts(
    invoke: Invoke, folder: Path, tell: Callable[[list[Row]], None]
) -> None:
    tell(ROWS)
    result = invoke(folder)
    assert result.exit_code == 0, result.output
    for expected in ("zero_shot.logp", "2.0e-06", "1e-04", "run.mel", "v3_flow: 2 of 2 within tolerance"):
        assert expected in result.stdout
    assert "all: 4 of 4 within tolerance, 0 failed" in result.stdout
    for hidden in ("ids[0]", "run.mu", "FAIL"):
        assert hidden not in result.stdout


def test_failures_are_all_named_and_exit_with_1(
    invoke: Invoke, folder: Path, tell: Callable[[list[Row]], None]
) -> None:
    tell([*ROWS, *FAILING])
    result = invoke(folder)
    assert result.exit_code == 1
    assert result.stdout.count("FAIL") == 2
    assert "shape (1, 2), recorded (1, 3)" in result.stdout
    assert "v3_hift: 1 of 3 within tolerance" in result.stdout
    assert "all: 5 of 7 within tolerance, 2 failed" in result.stdout


def test_all_prints_every_row(invoke: Invoke, folder: Path, tell: Callable[[list[Row]], None]) -> None:
    tell(ROWS)
    result = invoke(folder, "--all")
    for row in ROWS:
        assert row.tensor in result.stdout
    assert "exact" in result.stdout


def test_json_holds_every_row(invoke: Invoke, folder: Path, tmp_path: Path, tell: Callable[[list[Row]], None]) -> None:
    tell([*ROWS, *FAILING])
    assert invoke(folder, "--json", tmp_path / "rows.json").exit_code == 1
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["tensor"] for row in rows] == [row.tensor for row in [*ROWS, *FAILING]]
    assert rows[0] == {
        "stage": "v3_llm",
        "tensor": "zero_shot.logp",
        "max_error": 2e-6,
        "tolerance": 1e-4,
        "passed": True,
        "note": "",
    }
    assert rows[-2]["max_error"] is None


def test_other_generations_are_skipped_with_a_note(
    invoke: Invoke, folder: Path, tell: Callable[[list[Row]], None]
) -> None:
    tell(ROWS)
    for name in ("v4_llm.safetensors", "v5_llm.safetensors"):
        (folder / "golden" / name).touch()
    result = invoke(folder)
    assert result.exit_code == 0
    assert "skipped v4, v5: not supported yet" in result.stderr
    with pytest.raises(ModelError, match="'v4' is not supported"):
        invoke(folder, "--generation", "v4")


def test_a_folder_of_other_generations_only_cannot_be_checked(invoke: Invoke, folder: Path) -> None:
    (folder / "golden" / "v3_llm.safetensors").rename(folder / "golden" / "v4_llm.safetensors")
    with pytest.raises(ModelError, match="records of v4, of which none is supported"):
        invoke(folder)


def test_an_unwritable_file_is_refused_before_any_check(
    invoke: Invoke, folder: Path, tmp_path: Path, tell: Callable[[list[Row]], None]
) -> None:
    tell([Row("v3_llm", "not reached", float("inf"), 0.0)])
    with pytest.raises(OutputError, match="create it first"):
        invoke(folder, "--json", tmp_path / "absent" / "rows.json")


def test_the_command_exits_with_2_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cosyvoice", "parity", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "is no parity folder" in captured.err


def test_a_real_stage_passes_and_a_changed_record_fails(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    (tmp_path / "v3").symlink_to(DATA / "v3", target_is_directory=True)
    for name in ("v3_flow_debug.safetensors", "v3_flow_debug.meta.json"):
        (tmp_path / "golden" / name).write_bytes((DATA / "golden" / name).read_bytes())
    assert invoke(tmp_path, "--generation", "v3").exit_code == 0
    path = tmp_path / "golden" / "v3_flow_debug.safetensors"
    tensors = load_file(path)
    tensors["est.time_embed"] = tensors["est.time_embed"] + np.float32(1e-3)
    save_file(tensors, path)
    result = invoke(tmp_path)
    assert result.exit_code == 1
    assert "est.time_embed" in result.stdout


def test_the_native_engine_passes_fails_and_says_what_is_left_out(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    (tmp_path / "v3").symlink_to(DATA / "v3", target_is_directory=True)
    for name in ("v3_flow_debug.safetensors", "v3_flow_debug.meta.json"):
        (tmp_path / "golden" / name).write_bytes((DATA / "golden" / name).read_bytes())
    result = invoke(tmp_path, "--backend", "native")
    assert result.exit_code == 0, result.output
    assert "left out, as only the reference has them: v3_flow_debug 16" in result.stdout
    path = tmp_path / "golden" / "v3_flow_debug.safetensors"
    tensors = load_file(path)
    # The first is inside the reference's network, the second is what the stage gives out.
    tensors["est.time_embed"] = tensors["est.time_embed"] + np.float32(1e-3)
    save_file(tensors, path)
    assert invoke(tmp_path, "--backend", "native").exit_code == 0
    tensors["run.mel"] = tensors["run.mel"] + np.float32(1e-3)
    save_file(tensors, path)
    result = invoke(tmp_path, "--backend", "native")
    assert result.exit_code == 1
    assert "run.mel" in result.stdout


def test_nothing_is_left_out_of_the_reference(invoke: Invoke, folder: Path, tell: Callable[[list[Row]], None]) -> None:
    tell(ROWS)
    assert "left out" not in invoke(folder).stdout


def test_an_unknown_backend_exits_with_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["cosyvoice", "parity", str(DATA), "--backend", "llama"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "no backend 'llama'; choose one of reference, native" in capsys.readouterr().err
