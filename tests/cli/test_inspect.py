from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

MODELS = Path(__file__).parents[1] / "data" / "parity"


def test_a_directory_is_told(run: Any) -> None:
    result = run("inspect", MODELS / "v1" / "model")
    assert result.code == 0, result.err
    assert "released model, cosyvoice, generation v1" in result.out
    assert "flow.pt: weights, flow of v1, 313 tensors" in result.out and "中文女: embedding" in result.out


def test_problems_set_the_exit_code(run: Any, tmp_path: Path) -> None:
    model = shutil.copytree(MODELS / "v2" / "model", tmp_path / "model")
    shutil.copy(MODELS / "v1" / "model" / "flow.pt", model)
    result = run("inspect", model)
    assert result.code == 1
    assert "problem: flow.pt looks like the flow of generation v1, the configuration is of v2" in result.out
    assert "    missing: " in result.out and "    foreign: " in result.out and " more\n" in result.out
    data = json.loads(run("inspect", model, "--json").out)
    flow = next(file for file in data["files"] if file["name"] == "flow.pt")
    assert data["compared"] and data["problems"] and len(flow["mismatch"]["missing"]) > 20
    assert (data["kind"], data["generation"], flow["generation"]) == ("released model", "v2", "v1")


@pytest.mark.parametrize("name", ["README.md", "absent.pt", "empty"])
def test_what_is_nothing_known_is_one_line_and_two(run: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "README.md").write_text("words")
    (tmp_path / "empty").mkdir()
    result = run("inspect", tmp_path / name)
    assert result.code == 2 and result.out == "" and len(result.err.strip().splitlines()) == 1
    assert result.err.startswith("cosyvoice: ")


def test_two_configurations_are_refused(run: Any, tmp_path: Path) -> None:
    for name in ("cosyvoice.yaml", "cosyvoice3.yaml"):
        (tmp_path / name).touch()
    result = run("inspect", tmp_path)
    assert result.code == 2 and "cosyvoice.yaml and cosyvoice3.yaml" in result.err


def test_without_the_networks_names_are_not_compared(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cosyvoice.reference.networks", None)
    result = run("inspect", MODELS / "v3" / "model")
    assert result.code == 0 and "were not compared, which needs PyTorch" in result.out
