"""Short versions of `benchmarks/overload.py` and `benchmarks/shutdown.py`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cosyvoice.server.run import make_server

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.anyio


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a script of `benchmarks` by name."""
    import importlib

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def crowded(make_service: Any) -> Iterator[tuple[str, Any]]:
    """Address and service of a server that takes six requests."""
    limits = {"running": 2, "queue": 4, "paused": 2, "buffer_seconds": 0.2, "stall_seconds": 0.5}
    fake = make_service(delay=0.0005, port=0, limits=limits)
    server = make_server(fake.settings, fake.service)
    server.config.port = 0
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started or fake.service.state != "ready":
        assert time.monotonic() < end
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", fake
    server.should_exit = True
    thread.join(10)


async def test_ten_times_the_clients_slow_readers_and_leavers(crowded: tuple[str, Any], scripts: Any) -> None:
    overload, (url, fake) = scripts("overload"), crowded
    limits = httpx.Limits(max_connections=62, max_keepalive_connections=62)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as http:
        status, expected, _, _ = await overload.ask(http, overload.known_request())
        crowd = await overload.crowd(http, os.getpid(), clients=60, seconds=0.5)
        assert status == 200 and set(crowd["outcomes"]) == {"200", "429"}
        # Long enough to fill what the network takes.
        slow = await overload.slow_readers(http, 2, "\n".join([overload.SENTENCE] * 40), patience=20)
        assert slow["free_after_s"] is not None and slow["other_client"]["status"] == 200
        gone = await overload.leavers(http, clients=16, seed=1, most_seconds=0.3)
        assert len(gone["left"]) == 4 and gone["free_after_s"] is not None
        assert await overload.still_right(http, expected)
    assert fake.llm.held == 0 and fake.service.under_way == 0


def test_sigkill_while_voices_are_uploaded_costs_none(scripts: Any, tmp_path: Path) -> None:
    server, shutdown = scripts("server"), scripts("shutdown")
    home = tmp_path / "home"
    started = server.start_server(home, "--threads", "1", OMP_NUM_THREADS="1")
    try:
        found = shutdown.kill_while_uploading(home, started, 0, 0.7)
    finally:
        started.kill()
    assert found["lost"] == [] and found["torn"] == []
    assert started.process.returncode == -9
