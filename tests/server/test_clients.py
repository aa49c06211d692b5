"""Requests in the shape in which well-known programs send them."""

from __future__ import annotations

import json
from typing import Any

import av
import httpx
import numpy as np
import pytest

pytestmark = pytest.mark.anyio
TEXT = "one two three four five six seven eight"


def decoded_seconds(data: bytes, container: str) -> float:
    import io

    with av.open(io.BytesIO(data), format=container) as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


async def test_open_webui(client: httpx.AsyncClient) -> None:
    models = (await client.get("/v1/audio/models")).json()["models"]
    voices = (await client.get("/v1/audio/voices")).json()["voices"]
    assert {"id": "tts-1"} in models and {"id": "alloy", "name": "alloy"} in voices
    body = {"input": TEXT, "model": models[0]["id"], "voice": "alloy"}
    headers = {"Authorization": "Bearer ", "X-OpenWebUI-User-Name": "someone"}
    answer = await client.post("/v1/audio/speech", json=body, headers=headers)
    assert answer.status_code == 200 and decoded_seconds(answer.content, "mp3") > 1
    answer = await client.post("/v1/audio/speech", json={**body, "voice": "nobody"})
    assert answer.status_code == 404 and answer.json()["error"]["message"]


async def test_silly_tavern(client: httpx.AsyncClient) -> None:
    body = {"model": "tts-1", "input": TEXT, "voice": "anna", "response_format": "mp3", "speed": 1}
    answer = await client.post("/v1/audio/speech", json=body, headers={"Authorization": "Bearer "})
    assert answer.headers["content-type"] == "audio/mpeg" and decoded_seconds(answer.content, "mp3") > 1


async def test_livekit_reads_raw_audio_and_events(client: httpx.AsyncClient) -> None:
    body = {"input": TEXT, "model": "gpt-4o-mini-tts", "voice": "ash", "response_format": "mp3", "speed": 1.0}
    body |= {"instructions": "Speak in a friendly tone."}
    async with client.stream("POST", "/v1/audio/speech", json=body) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"] == "audio/mpeg"
        assert decoded_seconds(b"".join([part async for part in answer.aiter_bytes()]), "mp3") > 1
    async with client.stream("POST", "/v1/audio/speech", json={**body, "stream_format": "sse"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line[6:] async for line in answer.aiter_lines() if line.startswith("data: ")]
    kinds = [json.loads(line)["type"] for line in lines]
    assert set(kinds[:-1]) == {"speech.audio.delta"} and kinds[-1] == "speech.audio.done"


async def test_pipecat_takes_bare_samples_at_24_khz(client: httpx.AsyncClient) -> None:
    body: dict[str, Any] = {
        "input": TEXT, "model": "gpt-4o-mini-tts", "voice": "nova", "response_format": "pcm", "speed": 1.0,
    }  # fmt: skip
    async with client.stream("POST", "/v1/audio/speech", json=body) as answer:
        data = b"".join([part async for part in answer.aiter_bytes(1024)])
    samples = np.frombuffer(data, "<i2")
    assert len(samples) > 24000 and np.abs(samples).max() > 1000
