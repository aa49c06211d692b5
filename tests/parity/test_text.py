from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cosyvoice.parity.golden import ParityFolder, Row, assert_parity
from cosyvoice.parity.text import RememberingNormaliser, applicable_version, check, check_frontend

FOLDER = Path(__file__).parents[1] / "data" / "parity"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(check(ParityFolder(FOLDER)))


@pytest.fixture(scope="module")
def normaliser() -> RememberingNormaliser:
    return RememberingNormaliser()


def test_every_recorded_text_is_reproduced(rows: list[Row]) -> None:
    assert_parity(rows)


@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_earlier_generations_are_reproduced(generation: str, normaliser: RememberingNormaliser) -> None:
    rows = list(check_frontend(ParityFolder(FOLDER), generation, normaliser))
    assert_parity(rows)
    texts = json.loads((FOLDER / "golden" / f"{generation}_text.json").read_text())["rows"]
    assert len(rows) > 5 * len(texts) and {row.stage for row in rows} == {f"{generation}_text"}


def test_every_topic_is_covered(rows: list[Row]) -> None:
    counts = {stage: sum(row.stage == stage for row in rows) for stage in {row.stage for row in rows}}
    helpers = json.loads((FOLDER / "golden" / "text_helpers.json").read_text())["rows"]
    assert counts["text_helpers"] == sum(len(row) - 1 for row in helpers)
    assert counts["wetext_versions"] == len(helpers)
    assert counts["v3_text"] > 5 * len(helpers)


def test_only_quotation_marks_are_read_differently(rows: list[Row]) -> None:
    on_purpose = {row.tensor.split(".")[0] for row in rows if "on purpose" in row.note}
    texts = json.loads((FOLDER / "golden" / "v3_text.json").read_text())["rows"]
    assert all('"' in texts[int(index)]["text"] for index in on_purpose)


def test_an_unknown_record_is_a_failing_row(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "golden", tmp_path / "golden", ignore=shutil.ignore_patterns("*.safetensors"))
    weights = shutil.ignore_patterns("*.safetensors", "*.pt", "*.onnx")
    shutil.copytree(FOLDER / "v3" / "model", tmp_path / "v3" / "model", ignore=weights)
    for name in ("v3_text", "text_helpers", "wetext_versions"):
        path = tmp_path / "golden" / f"{name}.json"
        record = json.loads(path.read_text())
        record["rows"] = [{**record["rows"][0], "split_new": ["?"]}] if name != "wetext_versions" else []
        path.write_text(json.dumps(record))
    failing = [row for row in check(ParityFolder(tmp_path)) if not row.passed]
    assert {(row.stage, row.tensor) for row in failing} == {
        ("v3_text", "0.split_new"),
        ("text_helpers", "0.split_new"),
    }


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ("0.0.4", "0.0.4"),
        ("0.0.8", "0.0.4"),
        ("0.0.12", "0.0.9"),
        ("0.1.8", "0.1.8"),
        ("1.0", "0.1.8"),
        ("0.0.1", "0.0.4"),
    ],
)
def test_the_installed_version_chooses_the_record(installed: str, expected: str) -> None:
    assert applicable_version(["0.0.4", "0.1.8", "0.0.9"], installed) == expected
