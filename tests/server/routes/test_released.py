from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
import requests

from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.routes.released import RATE_HEADER
from cosyvoice.server.run import make_server

pytestmark = pytest.mark.anyio
TEXT = "one two three four five six seven eight"


def upload(recording: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    """As the example client sends it, whose file has no suffix."""
    return [("prompt_wav", ("prompt_wav", recording, "application/octet-stream"))]


@contextlib.asynccontextmanager
async def serving(fake: Any) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = make_server(fake.settings, fake.service)
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


def released_client(url: str, fields: dict[str, str], files: Any = None) -> tuple[np.ndarray, requests.Response]:
    """The calls of the example client: a form with GET, read in parts of 16000 bytes."""
    response = requests.request("GET", url, data=fields, files=files, stream=True, timeout=20)
    audio = b"".join(response.iter_content(chunk_size=16000))
    return np.frombuffer(audio, dtype=np.int16) if response.ok else np.zeros(0), response


async def test_the_released_client_is_served(make_service: Any, recording: bytes) -> None:
    fake = make_service()
    model = fake.service.tts.model
    model.config = model.config.model_copy(update={"end_of_prompt_id": 199})  # so that it follows instructions
    async with serving(fake) as base:

        async def call(mode: str, files: Any = None, **fields: str) -> tuple[np.ndarray, requests.Response]:
            fields = {"tts_text": TEXT, **fields}
            return await asyncio.to_thread(released_client, f"{base}/inference_{mode}", fields, files)

        lengths = set()
        for samples, response in (
            await call("sft", spk_id="anna"),
            await call("sft", spk_id="中文女"),
            await call("zero_shot", upload(recording), prompt_text="one two three"),
            await call("cross_lingual", upload(recording)),
            await call("instruct", spk_id="bert", instruct_text="Speak slowly."),
            await call("instruct2", upload(recording), instruct_text="Speak slowly."),
        ):
            assert response.status_code == 200
            assert response.headers[RATE_HEADER] == "24000" and response.headers["content-type"] == "audio/pcm"
            lengths.add(len(samples))
            assert np.abs(samples).max() > 1000
        assert min(lengths) > 24000


async def test_get_and_post_say_the_same_as_the_service(make_service: Any, make_client: Any) -> None:
    fake = make_service()
    async with make_client(fake) as client:
        form = {"tts_text": TEXT, "spk_id": "bert"}
        answers = [await client.request(method, "/inference_sft", data=form) for method in ("GET", "POST")]
    whole = np.concatenate([s async for s in fake.service.submit(SpeechRequest(TEXT, "bert"))])
    assert {len(answer.content) for answer in answers} == {2 * len(whole)}


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        ("sft", {"spk_id": "anna"}, 400, "tts_text"),
        ("sft", {"tts_text": TEXT}, 400, "spk_id"),
        ("sft", {"tts_text": TEXT, "spk_id": "nobody"}, 404, "spk_id"),
        ("sft", {"tts_text": " ", "spk_id": "anna"}, 422, "input"),
        ("zero_shot", {"tts_text": TEXT, "prompt_text": "one", "prompt_wav": "/etc/passwd"}, 400, "prompt_wav"),
        ("instruct", {"tts_text": TEXT, "spk_id": "anna", "instruct_text": " "}, 422, "instruct_text"),
    ],
)
async def test_what_is_wrong_is_named(
    client: httpx.AsyncClient, path: str, fields: dict[str, str], status: int, param: str
) -> None:
    answer = await client.post(f"/inference_{path}", data=fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


async def test_an_upload_that_is_no_recording_is_refused(client: httpx.AsyncClient) -> None:
    files = {"prompt_wav": ("p.wav", b"RIFFnothing")}
    answer = await client.post("/inference_cross_lingual", data={"tts_text": TEXT}, files=files)
    assert answer.status_code == 422


async def test_a_model_that_follows_no_instructions_says_so(client: httpx.AsyncClient) -> None:
    form = {"tts_text": TEXT, "spk_id": "anna", "instruct_text": "Slowly."}
    answer = await client.post("/inference_instruct", data=form)
    assert answer.status_code == 422 and "follows no instructions" in answer.json()["error"]["message"]


async def test_keys_are_asked_for(make_service: Any, make_client: Any) -> None:
    async with make_client(make_service(api_keys=["secret"])) as client:
        form = {"tts_text": TEXT, "spk_id": "anna"}
        assert (await client.post("/inference_sft", data=form)).status_code == 401


async def test_the_document_shows_both_methods(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    for mode in ("sft", "zero_shot", "cross_lingual", "instruct", "instruct2"):
        assert set(paths[f"/inference_{mode}"]) == {"get", "post"}


async def test_the_shipped_model_answers_the_released_client(mini_fake: Any) -> None:
    async with serving(mini_fake) as base:
        fields = {"tts_text": "The weather is fine today.", "spk_id": "英文女"}
        samples, response = await asyncio.to_thread(released_client, f"{base}/inference_sft", fields)
        assert response.status_code == 200 and 0.8 < len(samples) / 24000 < 6
