from __future__ import annotations

from pathlib import Path

import pytest

from cosyvoice.checkpoint.directories import replacing
from cosyvoice.errors import OutputError


def test_a_directory_appears_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with replacing(out) as fresh:
        (fresh / "a").write_text("new")
        assert not out.exists()
    assert (out / "a").read_text() == "new"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_is_not_kept_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "mine").mkdir(parents=True)
    (out / "mine" / "b").write_text("kept")
    (out / "a").write_text("old")
    with replacing(out, keep=lambda item: item.name == "mine") as fresh:
        (fresh / "c").write_text("new")
    assert sorted(path.name for path in out.iterdir()) == ["c", "mine"]
    assert (out / "mine" / "b").read_text() == "kept"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_everything_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")
    with pytest.raises(error), replacing(out) as fresh:
        (fresh / "a").write_text("new")
        raise error
    assert (out / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another directory"), replacing(tmp_path / "file" / "out"):
        pass
    with pytest.raises(OutputError, match="is the disk full"), replacing(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
