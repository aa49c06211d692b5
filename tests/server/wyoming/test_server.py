from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from wyoming.audio import AudioChunk, AudioStart
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)

from cosyvoice.errors import ConfigError
from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.wyoming.server import MAX_WAITING, listen

pytestmark = pytest.mark.anyio
TEXT = "one two three four five six seven eight"


@contextlib.asynccontextmanager
async def serving(fake: Any) -> AsyncIterator[int]:
    server = await listen(fake.service, "127.0.0.1", 0)
    try:
        yield server.port
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def client_of(fake: Any) -> AsyncIterator[AsyncTcpClient]:
    async with serving(fake) as port, AsyncTcpClient("127.0.0.1", port) as client:
        yield client


async def heard(client: AsyncTcpClient, last: str) -> tuple[list[str], bytes]:
    """Types of the events up to the first of type `last`, or the end of the connection, and the audio."""
    types, audio = [], b""
    while True:
        event = await asyncio.wait_for(client.read_event(), 10)
        types.append("closed" if event is None else event.type)
        if event is None or event.type == last:
            return types, audio
        if AudioStart.is_type(event.type):
            start = AudioStart.from_event(event)
            assert (start.rate, start.width, start.channels) == (24000, 2, 1)
        if AudioChunk.is_type(event.type):
            audio += AudioChunk.from_event(event).audio


async def until(condition: Callable[[], bool], seconds: float = 3.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.002)


async def test_it_describes_itself(make_service: Any) -> None:
    async with client_of(make_service()) as client:
        await client.write_event(Describe().event())
        event = await client.read_event()
        assert event is not None and Info.is_type(event.type)
        program = Info.from_event(event).tts[0]
        assert program.supports_synthesize_streaming and program.installed
        assert [voice.name for voice in program.voices] == ["anna", "bert"]
        assert "en" in program.voices[0].languages
        await client.write_event(Ping("there?").event())
        event = await client.read_event()
        assert event is not None and Pong.from_event(event).text == "there?"


async def test_a_text_is_spoken(make_service: Any) -> None:
    fake = make_service()
    async with client_of(fake) as client:
        for _ in range(2):
            await client.write_event(Synthesize(TEXT, SynthesizeVoice(name="bert")).event())
            types, audio = await heard(client, "audio-stop")
            assert types[0] == "audio-start" and types[-1] == "audio-stop"
    whole = np.concatenate([s async for s in fake.service.submit(SpeechRequest(TEXT, "bert"))])
    assert len(audio) == 2 * len(whole)


async def test_text_in_parts_is_spoken_while_it_is_written(make_service: Any) -> None:
    async with client_of(make_service()) as client:
        await client.write_event(SynthesizeStart(SynthesizeVoice(language="en")).event())
        for part in (TEXT, ". ", "and"):
            await client.write_event(SynthesizeChunk(part).event())
        types, _ = await heard(client, "audio-chunk")
        await client.write_event(SynthesizeChunk(" so on.").event())
        # Home Assistant repeats the text for servers that take no parts.
        await client.write_event(Synthesize(f"{TEXT}. and so on.").event())
        await client.write_event(SynthesizeStop().event())
        types, _ = await heard(client, "synthesize-stopped")
        assert types.count("audio-stop") == 1 and "audio-start" not in types
        assert SynthesizeStopped.is_type(types[-1])
        await client.write_event(SynthesizeStart().event())
        await client.write_event(SynthesizeChunk("  ").event())
        await client.write_event(SynthesizeStop().event())
        assert await heard(client, "synthesize-stopped") == (["synthesize-stopped"], b"")


async def test_events_that_are_not_known_are_passed_over(make_service: Any) -> None:
    async with client_of(make_service()) as client:
        await client.write_event(Event("transcribe", {"language": "en"}))
        await client.write_event(AudioChunk(16000, 2, 1, b"\0" * 1000).event())
        await client.write_event(SynthesizeChunk("nothing has been started").event())
        await client.write_event(Synthesize(TEXT).event())
        types, audio = await heard(client, "audio-stop")
        assert types[0] == "audio-start" and audio


@pytest.mark.parametrize(
    "event",
    [
        Synthesize("").event(),
        Synthesize("unspeakable").event(),
        Synthesize(TEXT, SynthesizeVoice(name="nobody")).event(),
        Synthesize("word " * 2000).event(),
        Event("synthesize", {"text": 3}),
    ],
)
async def test_a_text_that_fails_ends_the_connection_behind_its_error(make_service: Any, event: Event) -> None:
    async with client_of(make_service()) as client:
        await client.write_event(event)
        answer = await client.read_event()
        assert answer is not None and Error.is_type(answer.type) and Error.from_event(answer).code
        assert await client.read_event() is None


@pytest.mark.parametrize(
    "sent",
    [
        b"garbage\n",
        b"[1]\n",
        b"{}\n",
        b"[" * 10_000 + b"\n",
        b"x" * 200_000 + b"\n",
        json.dumps({"type": "audio-chunk", "payload_length": 1 << 40}).encode() + b"\n",
        json.dumps({"type": "describe", "data_length": -1}).encode() + b"\n",
        json.dumps({"type": "describe", "data_length": 2}).encode() + b"\n[]",
        json.dumps({"type": "describe", "data": "text"}).encode() + b"\n",
    ],
)
async def test_garbage_ends_the_connection_and_nothing_else(make_service: Any, sent: bytes) -> None:
    async with serving(make_service()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            assert b"invalid_event" in await asyncio.wait_for(reader.read(), 5)
        writer.close()
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Synthesize(TEXT).event())
            assert (await heard(client, "audio-stop"))[1]


async def test_a_client_that_leaves_frees_its_worker(make_service: Any) -> None:
    fake = make_service(delay=0.01)
    async with serving(fake) as port:
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Synthesize("\n".join([TEXT] * 20)).event())
            await heard(client, "audio-start")
        await until(lambda: fake.service.under_way == 0)
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(SynthesizeStart().event())
            await client.write_event(SynthesizeChunk("words without an").event())
            await until(lambda: fake.service.admission.paused == 1)
        await until(lambda: fake.service.under_way == 0)
    assert fake.llm.held == 0


async def test_texts_do_not_pile_up(make_service: Any) -> None:
    gate = threading.Event()
    async with client_of(make_service(gate=gate)) as client:
        for _ in range(MAX_WAITING + 2):
            await client.write_event(Synthesize(TEXT).event())
        types, _ = await heard(client, "error")
        assert types[-1] == "error"
        gate.set()


async def test_silence_closes_the_connection(make_service: Any) -> None:
    async with client_of(make_service(limits={"websocket_idle_seconds": 0.1})) as client:
        assert await asyncio.wait_for(client.read_event(), 5) is None


async def test_a_client_that_listens_is_not_idle(make_service: Any) -> None:
    async with client_of(make_service(delay=0.01, limits={"websocket_idle_seconds": 0.1})) as client:
        await client.write_event(Synthesize(TEXT).event())
        assert (await heard(client, "audio-stop"))[0][-1] == "audio-stop"


async def test_a_port_in_use_is_told(make_service: Any) -> None:
    fake = make_service()
    async with serving(fake) as port:
        with pytest.raises(ConfigError, match="--wyoming-port"):
            await listen(fake.service, "127.0.0.1", port)


async def test_the_shipped_model_speaks_what_arrives(mini_fake: Any) -> None:
    async with client_of(mini_fake) as client:
        await client.write_event(Describe().event())
        event = await client.read_event()
        assert event is not None and Info.from_event(event).tts[0].voices[0].languages == ["en"]
        await client.write_event(SynthesizeStart().event())
        for part in ("The wea", "ther is fine ", "today."):
            await client.write_event(SynthesizeChunk(part).event())
        await client.write_event(SynthesizeStop().event())
        types, audio = await heard(client, "synthesize-stopped")
    assert types[-1] == "synthesize-stopped" and 0.8 < len(audio) / 48000 < 6
