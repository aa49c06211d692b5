from __future__ import annotations

from pathlib import Path

import pytest

from cosyvoice.cli.output import check_output, check_place, check_spectrogram
from cosyvoice.errors import OutputError


def test_good_places_pass_and_stay_empty(tmp_path: Path) -> None:
    for name in ("a.wav", "a.FLAC", "a.ogg", "a.mp3"):
        check_output(tmp_path / name)
    check_spectrogram(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a.txt", ".wav", "a.wav.gz"])
def test_unknown_formats(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"\.wav, \.flac, \.ogg, \.mp3"):
        check_output(tmp_path / name)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(OutputError, match="is a directory"):
        check_place(tmp_path / "a.wav")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="does not exist"):
        check_place(tmp_path / "file" / "a.wav")
    with pytest.raises(OutputError, match="cannot be written"):
        check_place(Path("/proc/a.wav"))
