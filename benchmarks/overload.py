"""A server beyond its limits: ten times the clients it takes, readers who take nothing, clients who leave anywhere.

Each scenario ends with the same questions: is every place free again, is memory where it was, is the next answer right?

    python benchmarks/overload.py

`shutdown.py` beside it has the ends of a process: SIGTERM under load, SIGKILL while voices are uploaded.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import websockets
from load import ask
from server import busy_places, paused_requests, resident_bytes, running_server, seconds_until_idle

SENTENCE = "The morning was quiet, and nobody spoke of the night before."
RUNNING, QUEUE = 4, 16
"""Of the server that the script starts."""
SLOW = {"COSYVOICE_LIMITS__BUFFER_SECONDS": "2", "COSYVOICE_LIMITS__STALL_SECONDS": "3"}
LIMITS = {"COSYVOICE_LIMITS__RUNNING": str(RUNNING), "COSYVOICE_LIMITS__QUEUE": str(QUEUE), **SLOW}


async def crowd(http: httpx.AsyncClient, pid: int, clients: int, seconds: float) -> dict[str, Any]:
    """`clients` who ask without a pause for `seconds`; outcomes and the largest memory."""
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds

    async def one(seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < end:
            try:
                body = {"input": SENTENCE, "seed": chance.randrange(1000), "response_format": "pcm"}
                answer = await http.post("/v1/audio/speech", json=body)
            except httpx.HTTPError as error:
                outcomes[f"transport: {type(error).__name__}"] += 1
                continue
            told = "" if answer.status_code != 429 or answer.headers.get("retry-after") else " without Retry-After"
            outcomes[f"{answer.status_code}{told}"] += 1
            # Impatient on purpose: a tenth of the shortest time that a refusal names.
            await asyncio.sleep(0.1 if answer.status_code == 429 else 0)

    async with _watched(pid) as peak:
        await asyncio.gather(*(one(seed) for seed in range(clients)))
    return {"clients": clients, "outcomes": dict(outcomes), "peak_mib": peak[0] >> 20}


async def slow_readers(http: httpx.AsyncClient, readers: int, text: str, patience: float) -> dict[str, Any]:
    """`readers` who ask for `text` and read nothing, and one who reads, from when the first of them holds up its
    request; when are their places free?"""
    address = urlsplit(str(http.base_url))
    body = json.dumps({"input": text, "response_format": "pcm"}).encode()
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with contextlib.ExitStack() as held:
        for _ in range(readers):
            reader = held.enter_context(socket.socket())
            # A small window, so that the answer waits in the server and not in the network.
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect((address.hostname, address.port))
            reader.sendall(head.encode() + b"\r\n\r\n" + body)
        # What the network takes has to be spoken before a place is given away.
        end = time.monotonic() + patience
        while not (paused := await paused_requests(http)) and time.monotonic() < end:
            await asyncio.sleep(0.05)
        held_places = await busy_places(http)
        status, audio, first, _ = await ask(http, {"input": SENTENCE, "response_format": "pcm"})
        free_after = await seconds_until_idle(http, patience)
    return {
        "readers": readers, "held_places": held_places, "paused": paused, "free_after_s": free_after,
        "other_client": {"status": status, "audio_s": round(len(audio) / 48000, 2), "first_audio_s": round(first, 2)},
    }  # fmt: skip


async def leavers(http: httpx.AsyncClient, clients: int, seed: int, most_seconds: float) -> dict[str, Any]:
    """`clients` who leave at a random moment: within the body, in the queue, in the audio, in a WebSocket."""
    chance = random.Random(seed)
    ways = (_half_a_body, _raw, _events, _websocket)
    address = urlsplit(str(http.base_url))
    left: Counter[str] = Counter()

    async def one(way: Any, seconds: float) -> None:
        with contextlib.suppress(OSError, httpx.HTTPError, websockets.WebSocketException, asyncio.TimeoutError):
            await asyncio.wait_for(way(address), seconds)
        left[way.__name__.strip("_")] += 1

    await asyncio.gather(*(one(chance.choice(ways), chance.random() * most_seconds) for _ in range(clients)))
    return {"left": dict(left), "free_after_s": await seconds_until_idle(http)}


async def still_right(http: httpx.AsyncClient, expected: bytes) -> bool:
    """Whether a known request is answered as it was before."""
    status, audio, _, _ = await ask(http, known_request())
    return status == 200 and audio == expected


def known_request() -> dict[str, Any]:
    """What `still_right` asks for."""
    return {"input": SENTENCE, "seed": 7, "response_format": "pcm"}


async def _half_a_body(address: Any) -> None:
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        writer.write(b'Content-Length: 100\r\n\r\n{"input": "never')
        await writer.drain()
        await asyncio.sleep(3600)
    finally:
        writer.close()


async def _raw(address: Any) -> None:
    await _stream(address, {"response_format": "mp3"})


async def _events(address: Any) -> None:
    await _stream(address, {"stream_format": "sse", "response_format": "pcm"})


async def _stream(address: Any, options: dict[str, Any]) -> None:
    body = {"input": " ".join([SENTENCE] * 4), **options}
    http = httpx.AsyncClient(base_url=address.geturl(), timeout=300)
    async with http, http.stream("POST", "/v1/audio/speech", json=body) as answer:
        async for _ in answer.aiter_bytes():
            pass


async def _websocket(address: Any) -> None:
    url = address._replace(scheme="ws", path="/v1/audio/speech/stream").geturl()
    async with websockets.connect(url, max_size=None, close_timeout=0.1) as connection:
        for word in SENTENCE.split() * 4:
            await connection.send(json.dumps({"type": "input.text", "text": f"{word} "}))
        await connection.send(json.dumps({"type": "input.done"}))
        async for _ in connection:
            pass


@contextlib.asynccontextmanager
async def _watched(pid: int) -> AsyncIterator[list[int]]:
    """The largest memory of `pid` within the context, as the only item of a list."""
    peak = [resident_bytes(pid)]

    async def watch() -> None:
        while True:
            peak[0] = max(peak[0], resident_bytes(pid))
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch())
    try:
        yield peak
    finally:
        watching.cancel()


async def run(url: str, pid: int, seconds: float, leaving: int) -> dict[str, Any]:
    """All scenarios one after the other; the report."""
    capacity = RUNNING + QUEUE
    limits = httpx.Limits(max_connections=10 * capacity + 2, max_keepalive_connections=10 * capacity + 2)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        _, expected, _, _ = await ask(http, known_request())
        report: dict[str, Any] = {
            "at_capacity": await crowd(http, pid, capacity, seconds),
            "ten_times": await crowd(http, pid, 10 * capacity, seconds),
        }
        report["ten_times"]["free_after_s"] = await seconds_until_idle(http)
        report["slow_readers"] = await slow_readers(http, RUNNING, " ".join([SENTENCE] * 20), 120)
        report["leavers"] = await leavers(http, leaving, 1, 8.0)
        report["right_afterwards"] = await still_right(http, expected)
        report["resident_at_the_end_mib"] = resident_bytes(pid) >> 20
    return report


def faults(report: dict[str, Any]) -> list[str]:
    """What must not be."""
    found = []
    for name in ("at_capacity", "ten_times"):
        found += [f"{name}: {outcome}" for outcome in report[name]["outcomes"] if outcome not in ("200", "429")]
    if report["ten_times"]["peak_mib"] > 1.25 * report["at_capacity"]["peak_mib"]:
        found.append("ten times the clients take more memory than as many as fit")
    found += [f"{name}: a place is stuck" for name, part in report.items()
              if isinstance(part, dict) and part.get("free_after_s", 0.0) is None]  # fmt: skip
    slow = report["slow_readers"]
    if not slow["paused"] or slow["other_client"]["status"] != 200:
        found.append("slow readers keep another client out")
    if not report["right_afterwards"]:
        found.append("the answer afterwards differs")
    return found


def main() -> None:
    """Print the report as JSON; exit with 1 for a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two crowds")
    parser.add_argument("--leavers", type=int, default=100)
    parser.add_argument("serve", nargs="*", help="arguments of `cosyvoice serve`, behind --")
    arguments = parser.parse_args()
    with running_server(*arguments.serve, **LIMITS) as (url, pid):
        report = asyncio.run(run(url, pid, arguments.seconds, arguments.leavers))
    report["faults"] = faults(report)
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["faults"] else 0)


if __name__ == "__main__":
    main()
