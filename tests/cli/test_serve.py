from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from cosyvoice.cli.serve import page_of
from cosyvoice.engine.pipeline import TTS
from cosyvoice.server import run as server
from cosyvoice.server.app import create_app
from cosyvoice.server.service import SpeechService
from cosyvoice.server.settings import load_settings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings that a server would have been started with."""
    settings: list[Any] = []
    monkeypatch.setattr(server, "run_server", lambda given, page: settings.append(given))
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


def test_the_page_asks_for_a_key_where_there_are_keys(tiny_tts: TTS, tmp_path: Path) -> None:
    settings = load_settings(None, {"api_keys": ["secret"], "web": True, "voices_directory": tmp_path})
    app = create_app(settings, SpeechService(tiny_tts, settings))
    page_of(settings)(app, tiny_tts)
    # Without its start, for which the tiny model would have to speak.
    client = TestClient(app)
    assert client.get("/v1/models").status_code == 401
    assert client.get("/uiother").status_code == 401
    assert client.get("/ui/config").status_code == 401
    refused = client.post("/ui/login", data={"username": "ann", "password": "wrong"})
    assert refused.status_code == 400
    assert client.post("/ui/login", data={"username": "ann", "password": "secret"}).status_code == 200
    assert client.get("/ui/config").status_code == 200
    assert client.get("/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
