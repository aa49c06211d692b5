from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosyvoice.cli import player
from cosyvoice.cli.player import PROGRAMS, Player, find_player
from cosyvoice.errors import MissingDependencyError, OutputError


def program(directory: Path, script: str) -> Player:
    path = directory / "aplay"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Player("aplay", str(path))


def test_without_a_player_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(player.shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="alsa-utils"):
        find_player()


def test_the_first_player_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(player.shutil, "which", lambda name: f"/bin/{name}" if name in ("aplay", "play") else None)
    assert find_player() == Player("aplay", "/bin/aplay")


def test_every_program_is_told_the_rate() -> None:
    for arguments in PROGRAMS.values():
        assert any("{rate}" in argument for argument in arguments)


def test_a_player_that_fails_is_an_output_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="sound device"),
        program(tmp_path, "cat > /dev/null; exit 1").open(24000) as sound,
    ):
        sound.write(np.zeros(100, np.float32))


def test_a_player_that_stops_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="sound device"), program(tmp_path, "exit 1").open(24000) as sound:
        for _ in range(100):
            sound.write(np.zeros(100000, np.float32))


def test_an_interrupt_stops_the_player(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), program(tmp_path, "exec sleep 60").open(24000):
        raise KeyboardInterrupt
