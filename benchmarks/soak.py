"""Half an hour of mixed traffic: does memory stay where it was after the warm-up?

Speech in all formats, events, batches, references, uploads and deletions of voices, clients that leave and clients
that send nonsense. Before it, as many references are spoken with as the server remembers voices, so that its caches,
which have bounds, are full. Resident memory is read all the time; the growth is that of the last fifth of the run
against the first fifth after the warm-up. What runs at a moment takes half of it and more, so it is also read at rest:
in breaks in which nobody asks for anything, the growth being that of the last two against the first two after the
warm-up.

    python benchmarks/soak.py --minutes 30
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import sys
import time
from collections import Counter
from typing import Any

import httpx
import numpy as np
import soundfile
from server import resident_bytes, running_server, seconds_until_idle

WARM_UP_FRACTION = 0.1
REFERENCES = 64
"""Voices that a server remembers, more than the flow's memory of references holds."""
TIDY_SECONDS = 17.0
"""After which an idle server has given back what it does not hold: it looks every 5 s, and does so every 10 s."""
FEWEST_BREAKS = 5
"""So that the two after the warm-up are not the last two."""
SENTENCE = "The morning was quiet, and nobody spoke of the night before."


def recording(seed: int) -> bytes:
    """Three seconds of syllables, another pitch for each `seed`."""
    t = np.arange(72000) / 24000
    pitch = 110 + seed % 90
    tone = sum(np.sin(2 * np.pi * pitch * k * t + k) / k for k in range(1, 12))
    samples = 0.3 * tone / np.abs(tone).max() * (0.55 + 0.45 * np.sin(2 * np.pi * 5 * t))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 24000, format="WAV")
    return buffer.getvalue()


class Client:
    """Does one thing after the other, at random."""

    def __init__(self, http: httpx.AsyncClient, seed: int, tally: Counter[str], go: asyncio.Event) -> None:
        self._http, self._chance, self._tally, self._seed, self._go = http, random.Random(seed), tally, seed, go
        self._count = 0

    async def run(self, end: float) -> None:
        """Until `end`."""
        requests = (self._speak, self._speak, self._leave, self._events, self._batch)
        actions = (*requests, self._clone, self._voice, self._bad)
        while time.monotonic() < end:
            await self._go.wait()
            self._count += 1
            action = self._chance.choice(actions)
            try:
                status = await action()
            except httpx.HTTPError as error:
                self._tally[f"transport: {type(error).__name__}"] += 1
                continue
            self._tally[f"{action.__name__.strip('_')} {status}"] += 1
            if status == 429:
                await asyncio.sleep(1.0)

    async def _post(self, path: str, body: dict[str, Any]) -> int:
        return (await self._http.post(path, json=body)).status_code

    async def _speak(self) -> int:
        kind = self._chance.choice(["mp3", "opus", "aac", "flac", "wav", "pcm"])
        return await self._post("/v1/audio/speech", {"input": SENTENCE, "response_format": kind})

    async def _events(self) -> int:
        body = {"input": SENTENCE, "stream_format": "sse", "return_timing": True}
        return await self._post("/v1/audio/speech", body)

    async def _batch(self) -> int:
        return await self._post("/v1/audio/speech/batch", {"items": [{"input": "One."}, {"input": "Two."}]})

    async def _clone(self) -> int:
        return await _speak_like(self._http, self._chance.randrange(1000))

    async def _leave(self) -> int:
        async with self._http.stream("POST", "/v1/audio/speech", json={"input": " ".join([SENTENCE] * 5)}) as answer:
            async for _ in answer.aiter_bytes():
                break
        return answer.status_code

    async def _voice(self) -> int:
        name = f"voice-{self._seed}-{self._count}"
        files = {"audio_sample": ("a.wav", recording(self._count), "audio/wav")}
        added = await self._http.post("/v1/audio/voices", files=files, data={"name": name, "consent": "soak"})
        if added.status_code != 200:
            return added.status_code
        return (await self._http.delete(f"/v1/audio/voices/{name}")).status_code

    async def _bad(self) -> int:
        body = self._chance.choice([{}, {"input": ""}, {"input": "a", "voice": "nobody"}, {"input": "a", "speed": -1}])
        status = await self._post("/v1/audio/speech", body)
        return 400 if status == 404 else status


async def _speak_like(http: httpx.AsyncClient, seed: int) -> int:
    audio = base64.b64encode(recording(seed)).decode()
    answer = await http.post("/v1/audio/speech", json={"input": "Hello there.", "ref_audio": audio})
    return answer.status_code


async def fill_caches(url: str, clients: int) -> None:
    """Speak once with each of `REFERENCES` recordings."""
    async with httpx.AsyncClient(base_url=url, timeout=300) as http:
        for first in range(0, REFERENCES, clients):
            seeds = range(first, min(first + clients, REFERENCES))
            statuses = await asyncio.gather(*(_speak_like(http, seed) for seed in seeds))
            if set(statuses) != {200}:
                raise SystemExit(f"the caches could not be filled: {statuses}")


async def traffic(url: str, pid: int, clients: int, seconds: float, breaks: int) -> dict[str, Any]:
    """Traffic for `seconds`, breaks included; the report."""
    tally: Counter[str] = Counter()
    memory: list[tuple[float, int]] = []
    rest: list[int] = []
    go = asyncio.Event()
    begin = time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=300) as http:
        working = asyncio.gather(*(Client(http, i, tally, go).run(begin + seconds) for i in range(clients)))
        for number in range(1, breaks + 1):
            go.set()
            while not working.done() and (now := time.monotonic() - begin) < number / breaks * seconds:
                memory.append((now, resident_bytes(pid)))
                await asyncio.sleep(0.5)
            go.clear()
            if await seconds_until_idle(http) is None:
                raise SystemExit(
                    "the server is still busy a minute after the last request; nothing can be read at rest"
                )
            await asyncio.sleep(TIDY_SECONDS)
            rest.append(resident_bytes(pid))
        go.set()
        await working
    warm = [size for when, size in memory if when > WARM_UP_FRACTION * seconds]
    fifth = max(len(warm) // 5, 1)
    failures = {name: count for name, count in tally.items() if " 5" in name or name.startswith("transport")}
    return {
        "minutes": round(seconds / 60, 1),
        "outcomes": dict(sorted(tally.items())),
        "failures": failures,
        "in_traffic": growth(warm[:fifth], warm[-fifth:]) | {"curve_mib": curve(memory, seconds)},
        "at_rest": growth(rest[1:3], rest[-2:]) | {"curve_mib": [round(size / 2**20, 1) for size in rest]},
    }


def growth(begin: list[int], end: list[int]) -> dict[str, Any]:
    """Medians of the resident memory after the warm-up and at the end, in MiB, and by how much they differ."""
    before, after = float(np.median(begin)), float(np.median(end))
    return {
        "after_warm_up_mib": round(before / 2**20, 1),
        "at_the_end_mib": round(after / 2**20, 1),
        "growth_percent": round(100 * (after / before - 1), 2),
    }


def curve(memory: list[tuple[float, int]], seconds: float, points: int = 30) -> list[float]:
    """Medians of the resident memory over equal stretches of the run, in MiB."""
    stretches = ([size for when, size in memory if int(when / seconds * points) == i] for i in range(points))
    return [round(float(np.median(sizes)) / 2**20, 1) for sizes in stretches if sizes]


def main() -> None:
    """Print the report as JSON; exit with 1 for failures or more growth than allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--breaks", type=int, default=10, help="in which memory is read at rest, 17 s and more each")
    parser.add_argument("--growth", type=float, default=3.0, help="percent that are allowed")
    parser.add_argument("serve", nargs="*", help="arguments of `cosyvoice serve`, behind --")
    arguments = parser.parse_args()
    if arguments.breaks < FEWEST_BREAKS:
        parser.error(f"{arguments.breaks} breaks cannot show growth; use {FEWEST_BREAKS} or more")
    with running_server(*arguments.serve) as (url, pid):
        asyncio.run(fill_caches(url, arguments.clients))
        report = asyncio.run(traffic(url, pid, arguments.clients, 60 * arguments.minutes, arguments.breaks))
    print(json.dumps(report, indent=2))
    grown = any(report[when]["growth_percent"] > arguments.growth for when in ("in_traffic", "at_rest"))
    sys.exit(1 if report["failures"] or grown else 0)


if __name__ == "__main__":
    main()
