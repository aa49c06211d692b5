from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosyvoice.server import run as server


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings that a server would have been started with."""
    settings: list[Any] = []
    monkeypatch.setattr(server, "run_server", settings.append)
    return settings


def test_flags_become_settings(run: Callable[..., Any], served: list[Any], tmp_path: Path) -> None:
    config = tmp_path / "server.yaml"
    config.write_text("port: 1\nlimits: {queue: 3}\n")
    flags = ("--port", 9, "--backend", "reference", "--threads", 2, "--voices", tmp_path, "--api-key", "a")
    assert run("serve", "--config", config, *flags, "--api-key", "b").code == 0
    (settings,) = served
    assert (settings.port, settings.backend, settings.threads, settings.limits.queue) == (9, "reference", 2, 3)
    assert settings.voices_directory == tmp_path and len(settings.api_keys) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "--allow-public"),
        (("--backend", "tpu"), "backend"),
        (("--port", "70000"), "port"),
        (("--config", "nowhere.yaml"), "nowhere.yaml cannot be read"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    run: Callable[..., Any], served: list[Any], arguments: tuple[str, ...], message: str
) -> None:
    result = run("serve", *arguments)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1
    assert served == []


def test_without_its_packages_the_cure_is_named(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cosyvoice.server.run")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run("serve")
    assert result.code == 2 and 'pip install "cosyvoice[server]"' in result.err
