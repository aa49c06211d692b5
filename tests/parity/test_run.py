"""All checks together: which run, what becomes of a broken one, and which folders are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cosyvoice.errors import ModelError
from cosyvoice.parity import run as checks
from cosyvoice.parity.golden import ParityFolder, Row
from cosyvoice.parity.run import Check, recorded_generations, recorded_topics, run

FOLDER = Path(__file__).parents[1] / "data" / "parity"


def _fine(folder: ParityFolder, generation: str) -> Iterator[Row]:
    yield Row(f"{generation}_llm", "logp", 1e-6, 1e-4)


def _breaks(folder: ParityFolder, generation: str) -> Iterator[Row]:
    yield Row(f"{generation}_flow", "mu", 0.0, 1e-4)
    raise RuntimeError("sizes do not match")


@pytest.fixture
def folder(tmp_path: Path) -> ParityFolder:
    """Records and a model directory, all empty."""
    (tmp_path / "golden").mkdir()
    (tmp_path / "v3" / "model").mkdir(parents=True)
    for name in ("v3_llm.safetensors", "v3_llm.meta.json", "v3_flow.safetensors", "v3_text.json"):
        (tmp_path / "golden" / name).touch()
    return ParityFolder(tmp_path)


@pytest.fixture
def small_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    small = (
        Check("flow", _breaks, ("{}_flow",)),
        Check("llm", _fine, ("{}_llm", "ras")),
        Check("hift", _breaks, ("{}_hift",)),
    )
    monkeypatch.setattr(checks, "CHECKS", small)


def test_every_recorded_topic_has_a_check() -> None:
    covered = {topic for check in checks.CHECKS for name in checks.SUPPORTED for topic in check.topics_of(name)}
    assert recorded_topics(ParityFolder(FOLDER)) <= covered
    assert recorded_generations(ParityFolder(FOLDER)) == ["v1", "v2", "v3"]


@pytest.mark.usefixtures("small_checks")
def test_a_broken_check_hides_no_other(folder: ParityFolder) -> None:
    (folder.root / "golden" / "v3_text.json").unlink()
    stages: list[str] = []
    rows = run(folder, ["v3"], stages.append)
    assert stages == ["v3 flow", "v3 llm"]
    assert [(row.stage, row.tensor, row.passed) for row in rows] == [
        ("v3_flow", "mu", True),
        ("v3_flow", "(check stopped)", False),
        ("v3_llm", "logp", True),
    ]
    assert rows[1].note == "RuntimeError: sizes do not match"


@pytest.mark.usefixtures("small_checks")
def test_a_topic_that_no_check_reads_fails(folder: ParityFolder) -> None:
    for name in ("melody.json", "v2_llm.safetensors"):
        (folder.root / "golden" / name).touch()
    unread = [row for row in run(folder, ["v3"]) if row.tensor == "(whole topic)"]
    # What was recorded for another generation is not asked for.
    assert [row.stage for row in unread] == ["melody", "v3_text"]
    assert not any(row.passed for row in unread)


def test_topics_and_generations_come_from_the_names_of_files(folder: ParityFolder) -> None:
    for name in ("v10_flow.safetensors", "ras.safetensors", "README.md"):
        (folder.root / "golden" / name).touch()
    assert recorded_topics(folder) == {"v3_llm", "v3_flow", "v3_text", "v10_flow", "ras"}
    assert recorded_generations(folder) == ["v3", "v10"]


def test_folders_that_cannot_be_checked_are_refused(folder: ParityFolder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'v4' is not supported; choose one of v1, v2, v3"):
        run(folder, ["v4"])
    with pytest.raises(ModelError, match="no record of v2; it has v3"):
        run(folder, ["v2"])
    with pytest.raises(ModelError, match="no directory 'golden'"):
        run(ParityFolder(tmp_path / "elsewhere"), ["v3"])
    (folder.root / "v3" / "model").rmdir()
    with pytest.raises(ModelError, match="is missing, which the records of v3 belong to"):
        run(folder, ["v3"])
    for path in (folder.root / "golden").iterdir():
        path.unlink()
    with pytest.raises(ModelError, match="no record of a generation"):
        run(folder, ["v3"])
    (folder.root / "golden" / "v2_llm.safetensors").touch()
    with pytest.raises(ModelError, match="no record of v3; it has v2"):
        run(folder, ["v3"])
