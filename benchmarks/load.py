"""Many clients at once: is every answer the one to its own request, and how long does the first audio take?

Each request has a text, a voice and a seed of its own. What the server says to each of them alone is recorded first;
under load the samples must be the same, so an answer that belongs to somebody else, or was touched by somebody
else's, is found whatever it sounds like. Where batching rounds differently, the length must be equal and the samples
correlate to 0.99.

    python benchmarks/load.py --clients 64 --minutes 3
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from server import resident_bytes, running_server

SUBJECTS = ("The old river", "A small bird", "My neighbour", "The last train", "Her brother", "This morning")
ENDINGS = ("came home late.", "sang in the rain.", "was quiet again.", "went over the hill.")
VOICES = ("helen", "ryan", "sally", "karl", "angus")


@dataclass
class Tally:
    """What came back."""

    outcomes: Counter[str] = field(default_factory=Counter)
    first_audio: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    audio_seconds: float = 0.0
    exact: int = 0


def make_requests() -> list[dict[str, Any]]:
    """Requests that all differ in text, and among them in voice and seed."""
    texts = [f"{subject} {ending}" for subject in SUBJECTS for ending in ENDINGS]
    return [
        {"input": text, "voice": VOICES[i % len(VOICES)], "seed": i, "response_format": "pcm"}
        for i, text in enumerate(texts)
    ]


async def ask(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, bytes, float, float]:
    """Status, audio, seconds to the first of it and to the last."""
    begin = time.monotonic()
    first = 0.0
    parts = []
    async with client.stream("POST", "/v1/audio/speech", json=body) as answer:
        async for part in answer.aiter_bytes():
            first = first or time.monotonic() - begin
            parts.append(part)
    return answer.status_code, b"".join(parts), first, time.monotonic() - begin


def verdict(found: bytes, expected: bytes) -> str:
    """`exact`, `close` or `wrong`."""
    if found == expected:
        return "exact"
    if len(found) != len(expected):
        return "wrong"
    pair = [np.frombuffer(data, "<i2").astype(np.float64) for data in (found, expected)]
    return "close" if float(np.corrcoef(*pair)[0, 1]) > 0.99 else "wrong"


async def client_loop(
    client: httpx.AsyncClient, bodies: list[dict[str, Any]], alone: list[bytes], end: float, tally: Tally, seed: int
) -> None:
    """One client: a request after the other until the time is over; refused ones come again as they are told."""
    chance = random.Random(seed)
    while time.monotonic() < end:
        index = chance.randrange(len(bodies))
        try:
            status, audio, first, whole = await ask(client, bodies[index])
        except httpx.HTTPError as error:
            tally.outcomes[f"transport: {type(error).__name__}"] += 1
            continue
        if status == 429:
            tally.outcomes["429"] += 1
            await asyncio.sleep(1.0 + chance.random())
            continue
        if status != 200:
            tally.outcomes[f"status {status}"] += 1
            continue
        outcome = verdict(audio, alone[index])
        tally.exact += outcome == "exact"
        tally.outcomes["wrong" if outcome == "wrong" else "ok"] += 1
        tally.first_audio.append(first)
        tally.whole.append(whole)
        tally.audio_seconds += len(audio) / 48000


def quantiles(values: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in seconds."""
    return {f"p{p}": round(float(np.percentile(values, p)), 3) for p in (50, 95, 99)} if values else {}


async def run(url: str, pid: int, clients: int, seconds: float) -> dict[str, Any]:
    """Load the server; the report."""
    bodies = make_requests()
    limits = httpx.Limits(max_connections=clients + 1, max_keepalive_connections=clients + 1)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        single = [await ask(client, body) for body in bodies]
        alone = [audio for _, audio, _, _ in single]
        tally = Tally()
        begin = time.monotonic()
        loops = (client_loop(client, bodies, alone, begin + seconds, tally, i) for i in range(clients))
        await asyncio.gather(*loops)
        wall = time.monotonic() - begin
    errors = {name: count for name, count in tally.outcomes.items() if name not in ("ok", "429")}
    return {
        "clients": clients,
        "seconds": round(wall, 1),
        "outcomes": dict(tally.outcomes),
        "errors": sum(errors.values()),
        "bit_exact": tally.exact,
        "alone_first_audio_s": quantiles([first for _, _, first, _ in single]),
        "first_audio_s": quantiles(tally.first_audio),
        "whole_s": quantiles(tally.whole),
        "audio_seconds_a_second": round(tally.audio_seconds / wall, 2),
        "resident_mib": resident_bytes(pid) >> 20,
    }


def main() -> None:
    """Print the report as JSON; exit with 1 for any error other than 429."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("serve", nargs="*", help="arguments of `cosyvoice serve`, behind --")
    arguments = parser.parse_args()
    with running_server(*arguments.serve) as (url, pid):
        report = asyncio.run(run(url, pid, arguments.clients, 60 * arguments.minutes))
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["errors"] else 0)


if __name__ == "__main__":
    main()
