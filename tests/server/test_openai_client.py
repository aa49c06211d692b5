"""The `openai` package, unmodified, against a server with the small model on a socket; and the process as a whole."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import cosyvoice
from cosyvoice.engine.pipeline import TTS
from cosyvoice.server.run import make_server
from cosyvoice.server.service import SpeechService
from cosyvoice.server.settings import Limits, load_settings
from cosyvoice.server.uploads import decode_upload

TEXT = "Hello there."


@pytest.fixture(scope="module")
def tts() -> TTS:
    return cosyvoice.load(threads=1)


@pytest.fixture(scope="module")
def url(tts: TTS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("voices")
    settings = load_settings(None, {"api_keys": ["key"], "port": 0, "voices_directory": folder})
    server = make_server(settings, SpeechService(tts, settings))
    server.config.port = 0
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 90
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    while httpx.get(f"{address}/readyz").status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.05)
    yield address
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0)


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac", "flac", "wav"])
def test_speech_in_every_container(client: openai.OpenAI, audio_format: Any) -> None:
    answer = client.audio.speech.create(
        model="tts-1", voice="alloy", input=TEXT, response_format=audio_format, speed=2.0, extra_body={"seed": 1}
    )
    samples, _ = decode_upload(answer.read(), Limits())
    assert 0.2 < abs(samples).max() <= 1


def test_streamed_audio_is_what_the_library_says(client: openai.OpenAI, tts: TTS) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="nova", input=TEXT, response_format="pcm", extra_body={"seed": 1}
    ) as answer:
        data = b"".join(answer.iter_bytes())
    stream = tts.stream(TEXT, "helen", seed=1)
    assert len(data) == 2 * sum(len(chunk.samples) for chunk in stream)


def test_events_are_streamed(client: openai.OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input=TEXT, stream_format="sse", extra_body={"return_timestamps": True}
    ) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert '"speech.audio.delta"' in lines[0] and '"speech.audio.done"' in lines[-1]
    assert re.findall(r'"word": "([^"]*)"', lines[-1]) == TEXT.split()


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert "tts-1" in [model.id for model in client.models.list()]
    assert client.models.retrieve("tts-1").id == "tts-1"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"input": ""}, openai.BadRequestError),
        ({"speed": 9.0}, openai.BadRequestError),
        ({"response_format": "ogg"}, openai.BadRequestError),
        ({"voice": "nobody"}, openai.NotFoundError),
        ({"model": "gpt-9"}, openai.NotFoundError),
        ({"input": "..."}, openai.UnprocessableEntityError),
    ],
)
def test_errors_are_its_typed_exceptions(client: openai.OpenAI, fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        client.audio.speech.create(**{"model": "tts-1", "voice": "alloy", "input": TEXT, **fields})
    assert caught.value.param in fields  # type: ignore[attr-defined]


def test_a_wrong_key_is_its_authentication_error(url: str) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="other", max_retries=0).models.list()


def test_a_client_that_leaves_frees_its_place(url: str, client: openai.OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="This is a long sentence, said again. " * 20, response_format="pcm"
    ) as answer:
        next(answer.iter_bytes())
    end = time.monotonic() + 5
    headers = {"authorization": "Bearer key"}
    while re.search(r"requests_running\{\S*\} [^0]", httpx.get(f"{url}/metrics", headers=headers).text):
        assert time.monotonic() < end, "the request still runs"
        time.sleep(0.05)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], str]]]:
    """Starts `cosyvoice serve` on a free port; gives the process and its address."""
    processes = []

    def start(*arguments: str) -> tuple[subprocess.Popen[bytes], str]:
        port = _free_port()
        command = [sys.executable, "-m", "cosyvoice.cli.main", "serve", "--port", str(port), "--threads", "1"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COSYVOICE_HOME": str(tmp_path)}
        process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, env=environment)
        processes.append(process)
        return process, f"http://127.0.0.1:{port}"

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(url: str) -> None:
    end = time.monotonic() + 90
    while True:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, "the server did not become ready"
        time.sleep(0.05)


def test_streams_complete_after_sigterm_and_the_process_ends(serve: Any, tts: TTS) -> None:
    process, url = serve()
    _wait_ready(url)
    text = "This sentence is spoken while the server is told to stop. It is spoken to its end."
    body = {"input": text, "response_format": "pcm", "seed": 2}
    with httpx.stream("POST", f"{url}/v1/audio/speech", json=body, timeout=30) as answer:
        parts = answer.iter_bytes()
        received = len(next(parts))
        process.send_signal(signal.SIGTERM)
        received += sum(map(len, parts))
    stream = tts.stream(text, seed=2)
    assert received == 2 * sum(len(chunk.samples) for chunk in stream)
    assert process.wait(60) in (0, -signal.SIGTERM)


def test_the_command_refuses_a_public_address_without_a_key(serve: Any) -> None:
    process, _ = serve("--host", "0.0.0.0")
    _, message = process.communicate(timeout=60)
    assert process.returncode == 2 and b"--allow-public" in message and b"Traceback" not in message
