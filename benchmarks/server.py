"""A server in a process of its own, for the scripts beside this one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass(frozen=True)
class ServerProcess:
    """`cosyvoice serve`, ready."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def terminate(self, seconds: float = 60.0) -> int:
        """Ask it to end, and wait for it; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self.process.kill()
        self.process.wait()


def start_server(home: str | Path, *arguments: str, **environment: str) -> ServerProcess:
    """`cosyvoice serve` on a free port, once it is ready; its voices lie under `home`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "cosyvoice.cli.main", "serve", "--port", str(port), *arguments],
        env={**os.environ, "COSYVOICE_HOME": str(home), "COSYVOICE_LOG_LEVEL": "error", **environment},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process)
    except BaseException:
        process.kill()
        raise
    return ServerProcess(url, process)


@contextlib.contextmanager
def running_server(*arguments: str, **environment: str) -> Iterator[tuple[str, int]]:
    """Address and process id of a server; it is told to stop at the end."""
    with tempfile.TemporaryDirectory() as home:
        server = start_server(home, *arguments, **environment)
        try:
            yield server.url, server.pid
        finally:
            server.terminate()


def resident_bytes(pid: int) -> int:
    """Memory that process `pid` holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def busy_places(http: httpx.AsyncClient) -> int:
    """How many requests are under way: run, wait for a place, or for their client."""
    return await _requests(http, "running|waiting|paused")


async def paused_requests(http: httpx.AsyncClient) -> int:
    """How many requests have begun and wait for their client."""
    return await _requests(http, "paused")


async def _requests(http: httpx.AsyncClient, states: str) -> int:
    text = (await http.get("/metrics")).text
    return sum(
        int(float(value)) for value in re.findall(rf"^cosyvoice_requests_(?:{states})\{{\S*\}} (\S+)", text, re.M)
    )


async def seconds_until_idle(http: httpx.AsyncClient, patience: float = 60.0) -> float | None:
    """How long it takes until no request runs or waits; None where some still do after `patience` seconds."""
    begin = time.monotonic()
    while time.monotonic() - begin < patience:
        if await busy_places(http) == 0:
            return round(time.monotonic() - begin, 2)
        await asyncio.sleep(0.05)
    return None


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the server did not become ready")
