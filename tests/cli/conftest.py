"""Runs commands as a user does: the same entry point, exit codes and streams, without a process of their own."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import cosyvoice
from cosyvoice.cli import main as entry
from cosyvoice.engine.pipeline import TTS


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str
    data: bytes


class _Stream(io.TextIOWrapper):
    """Text over bytes that can be read afterwards, as standard output is."""

    def __init__(self, content: bytes = b"") -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8", write_through=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's directory, empty."""
    monkeypatch.setenv("COSYVOICE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs `cosyvoice ARGUMENTS` with the tiny model as that of the package and `stdin` on standard input."""
    monkeypatch.setattr(cosyvoice, "DEFAULT_MODEL", tiny_model_dir)

    def call(*arguments: object, stdin: bytes = b"") -> Ran:
        out, err = _Stream(), _Stream()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["cosyvoice", *map(str, arguments)])
            patch.setattr(sys, "stdin", _Stream(stdin))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as exit_:
                entry.main()
                sys.exit(0)
        data, messages = out.buffer.getvalue(), err.buffer.getvalue()  # type: ignore[attr-defined]
        code = exit_.value.code
        return Ran(code if isinstance(code, int) else 0, data.decode("utf-8", "replace"), messages.decode(), data)

    return call


@pytest.fixture
def quick_load(tiny_tts: TTS, monkeypatch: pytest.MonkeyPatch) -> TTS:
    """Commands get the tiny model that is loaded already."""
    monkeypatch.setattr(cosyvoice, "load", lambda *_, **__: tiny_tts)
    return tiny_tts
