from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cosyvoice.cli.web import parse_login
from cosyvoice.errors import ConfigError
from cosyvoice.server.addresses import is_loopback

Run = Callable[..., Any]


def test_an_open_address_needs_a_login(run: Run) -> None:
    ran = run("web", "--host", "0.0.0.0", "--no-browser")
    assert ran.code == 2
    assert "would let everybody in" in ran.err and "--login" in ran.err


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_logins() -> None:
    assert parse_login(None) is None
    assert parse_login("ann:a:b") == ("ann", "a:b")
    for bad in ("ann", "ann:", ":x", ""):
        with pytest.raises(ConfigError, match="NAME:PASSWORD"):
            parse_login(bad)


def test_a_page_without_its_packages_says_how_to_get_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    ran = run("web", "--no-browser")
    assert ran.code == 2 and "cosyvoice[webui]" in ran.err
