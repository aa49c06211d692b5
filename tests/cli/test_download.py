from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosyvoice.checkpoint import hubs
from cosyvoice.checkpoint.hubs import Listing, RemoteFile


class _Hub:
    """A hub with one small file."""

    name = "huggingface"
    content = b"weights"

    def listing(self, repository: str, revision: str | None) -> Listing:
        import hashlib

        digest = hashlib.sha256(self.content).hexdigest()
        return Listing("c3" * 20, (RemoteFile("llm.pt", len(self.content), digest),))

    def fetch(self, repository: str, revision: str, file: RemoteFile, directory: Path, again: bool) -> None:
        (directory / file.name).write_bytes(self.content)

    def forget(self, directory: Path) -> None:
        """Nothing is kept."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosyvoice.checkpoint.download.open_hub", lambda _: _Hub())


@pytest.mark.usefixtures("hub")
def test_a_model_goes_to_its_place(run: Any, home: Path) -> None:
    result = run("download", "CosyVoice2-0.5B")
    assert result.code == 0, result.err
    assert (home / "pretrained_models" / "CosyVoice2-0.5B" / "llm.pt").read_bytes() == b"weights"
    assert "1 of 1 files fetched" in result.out and "c3c3c3c3c3c3" in result.out
    assert "llm.pt" in result.err, "progress"
    again = run("download", "CosyVoice2-0.5B")
    assert again.code == 0 and "complete and intact" in again.out


def test_bad_requests(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("download", "CosyVoice2")
    assert result.code == 2 and "did you mean 'CosyVoice2-0.5B'?" in result.err
    result = run("download", "CosyVoice2-0.5B", "--source", "elsewhere", "--dir", tmp_path / "x")
    assert result.code == 2 and "modelscope" in result.err
    monkeypatch.setattr(hubs.HuggingFace, "__init__", _offline)
    result = run("download", "CosyVoice2-0.5B", "--dir", tmp_path / "x")
    assert result.code == 2 and "no connection" in result.err


def _offline(_: object) -> None:
    raise hubs.DownloadError("there is no connection")
