from __future__ import annotations

import pytest

from cosyvoice.server.routes.websocket import origin_is_allowed


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "result"),
    [
        (None, "localhost:8000", (), True),
        ("http://localhost:8000", "localhost:8000", (), True),
        ("http://LOCALHOST:8000", "localhost:8000", (), True),
        ("https://evil.example", "localhost:8000", (), False),
        ("http://localhost:8001", "localhost:8000", (), False),
        ("null", "localhost:8000", (), False),
        ("http://[", "localhost:8000", (), False),
        ("", "", (), False),
        ("https://app.example", "localhost:8000", ("https://app.example",), True),
        ("https://other.example", "localhost:8000", ("*",), True),
    ],
)
def test_pages_of_other_origins_are_kept_out(
    origin: str | None, host: str, allowed: tuple[str, ...], result: bool
) -> None:
    assert origin_is_allowed(origin, host, allowed) is result
