"""Damaged, random and lying recordings against a running server: no crash, no 5xx, no answer later than a second.

python benchmarks/fuzz_uploads.py --cases 10000
"""

from __future__ import annotations

import argparse
import io
import json
import random
import struct
import sys
import time
from collections import Counter
from typing import Any

import av
import httpx
import numpy as np
import soundfile
from server import running_server

MAGIC = (
    b"RIFF",
    b"fLaC",
    b"OggS",
    b"ID3\x04",
    b"\xff\xfb",
    b"\x1aE\xdf\xa3",
    b"\0\0\0\x20ftyp",
    b"\xff\xf1",
    b"FORM",
)


def seeds() -> dict[str, bytes]:
    """A valid recording of two seconds in every container that is read."""
    t = np.arange(48000) / 24000
    samples = (0.3 * np.sin(2 * np.pi * 140 * t) * (0.6 + 0.4 * np.sin(2 * np.pi * 5 * t))).astype(np.float32)
    made = {}
    for name, subtype in (
        ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("CAF", "ALAC_16"), ("AU", "PCM_16"), ("W64", "PCM_16"),
    ):  # fmt: skip
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, 24000, format=name, subtype=subtype)
        made[f"{name}-{subtype}"] = buffer.getvalue()
    for container, codec in (("webm", "libopus"), ("mp4", "aac"), ("adts", "aac"), ("flac", "flac")):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container) as file:
            stream = file.add_stream(codec, rate=48000, layout="mono")
            frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate = 48000
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                file.mux(packet)
        made[f"av-{container}"] = buffer.getvalue()
    return made


def mutate(data: bytes, chance: random.Random) -> bytes:
    """One of the ways in which a file goes wrong."""
    kind = chance.randrange(7)
    damaged = bytearray(data)
    if kind == 0:
        return data[: chance.randrange(len(data))]
    if kind == 1:
        return chance.choice(MAGIC) + chance.randbytes(chance.randrange(4000))
    if kind == 2:
        return chance.randbytes(chance.randrange(4000))
    if kind == 3:
        # Numbers of the header at their extremes: lengths, rates, channels.
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(min(len(damaged) - 8, 200))
            damaged[at : at + 4] = struct.pack("<I", chance.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 65535]))
        return bytes(damaged)
    if kind == 4:
        for _ in range(chance.randrange(1, 60)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        return bytes(damaged)
    if kind == 5:
        for _ in range(chance.randrange(1, 12)):
            damaged[chance.randrange(min(len(damaged), 120))] = chance.randrange(256)
        return bytes(damaged)
    start = chance.randrange(len(data))
    return data[:start] + data[start : start + chance.randrange(3000)] * chance.randrange(1, 20) + data[start:]


def fuzz(url: str, cases: int, seed: int, hang_seconds: float) -> dict[str, Any]:
    """Send `cases` uploads; the report."""
    chance = random.Random(seed)
    originals = seeds()
    statuses: Counter[int] = Counter()
    slowest, slow, faulty = 0.0, 0, []
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in range(cases):
            name = chance.choice(list(originals))
            data = mutate(originals[name], chance)
            files = {"audio_sample": ("a", data, chance.choice(["audio/wav", "application/json", ""]))}
            begin = time.monotonic()
            answer = client.post("/v1/audio/voices", files=files, data={"name": f"v{number}", "consent": "fuzz"})
            seconds = time.monotonic() - begin
            statuses[answer.status_code] += 1
            slowest, slow = max(slowest, seconds), slow + (seconds > hang_seconds)
            if answer.status_code >= 500 or seconds > hang_seconds:
                faulty.append({"case": number, "of": name, "status": answer.status_code, "seconds": round(seconds, 3)})
            if answer.status_code == 200:
                client.delete(f"/v1/audio/voices/v{number}")
        alive = client.get("/readyz").status_code == 200
    return {
        "cases": cases,
        "seed": seed,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "slowest_s": round(slowest, 3),
        "hangs": slow,
        "faulty": faulty[:20],
        "server_ready_after": alive,
    }


def main() -> None:
    """Print the report as JSON; exit with 1 for a 5xx, a hang, or a server that is gone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hang", type=float, default=1.0, help="seconds after which an answer counts as a hang")
    arguments = parser.parse_args()
    with running_server() as (url, _):
        report = fuzz(url, arguments.cases, arguments.seed, arguments.hang)
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["faulty"] or not report["server_ready_after"] else 0)


if __name__ == "__main__":
    main()
