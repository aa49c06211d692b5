"""A server in a process of its own, for the scripts beside this one."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx


@contextlib.contextmanager
def running_server(*arguments: str, **environment: str) -> Iterator[tuple[str, int]]:
    """Address and process id of `cosyvoice serve`, once it is ready; it is told to stop at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            [sys.executable, "-m", "cosyvoice.cli.main", "serve", "--port", str(port), *arguments],
            env={**os.environ, "COSYVOICE_HOME": home, "COSYVOICE_LOG_LEVEL": "error", **environment},
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(url, process)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait(60)


def resident_bytes(pid: int) -> int:
    """Memory that process `pid` holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


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
