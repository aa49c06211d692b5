"""The two ends of a server's process: SIGTERM while it speaks, SIGKILL while voices are uploaded.

After SIGTERM everything that was let in is spoken to its end, bit for bit, and nobody else is let in. After SIGKILL
every voice whose upload was answered is there and whole, any other one is whole or absent, and the next server works.

    python benchmarks/shutdown.py --streams 12 --kills 20
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from load import ask
from server import ServerProcess, busy_places, start_server
from soak import SENTENCE, recording

from cosyvoice.voice.store import VoiceStore


async def terminate_under_load(server: ServerProcess, streams: int) -> dict[str, Any]:
    """SIGTERM while `streams` requests speak or wait; how many came whole, what became of a late one."""
    bodies = [{"input": SENTENCE, "seed": seed, "response_format": "pcm"} for seed in range(streams)]
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=httpx.Limits(max_connections=None)) as http:
        alone = [(await ask(http, body))[1] for body in bodies]
        under_way = [asyncio.create_task(ask(http, body)) for body in bodies]
        while await busy_places(http) < streams:
            await asyncio.sleep(0.02)
        begin = time.monotonic()
        ending = asyncio.create_task(asyncio.to_thread(server.terminate, 120))
        await asyncio.sleep(0.3)
        late = await _late(http)
        answers = await asyncio.gather(*under_way, return_exceptions=True)
        status = await ending
    whole = sum(not isinstance(answer, BaseException) and answer[:2] == (200, audio)
                for answer, audio in zip(answers, alone, strict=True))  # fmt: skip
    return {
        "streams": streams, "whole": whole, "late_client": late, "exit_status": status,
        "ended_after_s": round(time.monotonic() - begin, 2),
        "others": [repr(answer)[:200] for answer in answers if not isinstance(answer, tuple) or answer[0] != 200],
    }  # fmt: skip


async def _late(http: httpx.AsyncClient) -> str:
    try:
        return str((await http.post("/v1/audio/speech", json={"input": SENTENCE})).status_code)
    except httpx.TransportError as error:
        return type(error).__name__


def kill_while_uploading(home: Path, server: ServerProcess, round_number: int, seconds: float) -> dict[str, Any]:
    """Upload without a pause, kill the server after `seconds`, and look at what lies on the disk.

    The same recording each time, whose features the server remembers, so that most of an upload is its writing.
    """
    answered: list[str] = []
    audio = recording(1)

    def upload(worker: int) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as http, contextlib.suppress(httpx.TransportError):
            for number in range(10_000):
                name = f"voice-{round_number}-{worker}-{number}"
                files = {"audio_sample": ("a.wav", audio, "audio/wav")}
                answer = http.post("/v1/audio/voices", files=files, data={"name": name, "consent": "benchmark"})
                if answer.status_code == 200:
                    answered.append(name)

    workers = [threading.Thread(target=upload, args=(worker,)) for worker in range(4)]
    for thread in workers:
        thread.start()
    time.sleep(seconds)
    server.kill()
    for thread in workers:
        thread.join()
    store = VoiceStore(home / "voices")
    kept = store.own_names()
    torn = [name for name in kept if not _is_whole(store, name)]
    return {"answered": len(answered), "kept": len(kept), "lost": sorted(set(answered) - set(kept)), "torn": torn}


def _is_whole(store: VoiceStore, name: str) -> bool:
    try:
        return store.get(name).consent == "benchmark"
    except Exception:
        return False


def works(server: ServerProcess, voice: str | None) -> bool:
    """Whether the server lists all its voices whole, and speaks with one of them."""
    with httpx.Client(base_url=server.url, timeout=60) as http:
        listed = http.get("/v1/audio/voices").json()
        whole = {item["name"] for item in listed["uploaded_voices"]}
        body = {"input": "Hello.", "response_format": "wav", **({"voice": voice} if voice else {})}
        return (voice is None or voice in whole) and http.post("/v1/audio/speech", json=body).status_code == 200


def run(streams: int, kills: int, seed: int, arguments: list[str]) -> dict[str, Any]:
    """All of it; the report."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as home:
        server = start_server(home, *arguments)
        report: dict[str, Any] = {"sigterm": asyncio.run(terminate_under_load(server, streams))}
    rounds = []
    with tempfile.TemporaryDirectory() as home:
        for number in range(kills):
            server = start_server(home, *arguments)
            rounds.append(kill_while_uploading(Path(home), server, number, 0.5 + 2 * chance.random()))
        server = start_server(home, *arguments)
        names = VoiceStore(Path(home) / "voices").own_names()
        report["sigkill"] = {
            "kills": kills,
            "answered": sum(entry["answered"] for entry in rounds),
            "kept": len(names),
            "lost": [name for entry in rounds for name in entry["lost"]],
            "torn": [name for entry in rounds for name in entry["torn"]],
            "works_afterwards": works(server, names[-1] if names else None),
        }
        server.terminate()
    return report


def faults(report: dict[str, Any]) -> list[str]:
    """What must not be."""
    found = []
    term, killed = report["sigterm"], report["sigkill"]
    if term["whole"] != term["streams"]:
        found.append("streams were cut by SIGTERM")
    if term["late_client"] == "200":
        found.append("a client was let in after SIGTERM")
    if term["exit_status"] not in (0, -15):
        found.append(f"the process ended with {term['exit_status']}")
    if killed["lost"] or killed["torn"] or not killed["works_afterwards"]:
        found.append("SIGKILL cost voices")
    return found


def main() -> None:
    """Print the report as JSON; exit with 1 for a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=12)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("serve", nargs="*", help="arguments of `cosyvoice serve`, behind --")
    arguments = parser.parse_args()
    report = run(arguments.streams, arguments.kills, arguments.seed, arguments.serve)
    report["faults"] = faults(report)
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["faults"] else 0)


if __name__ == "__main__":
    main()
