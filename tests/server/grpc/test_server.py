from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest

from cosyvoice.errors import ConfigError
from cosyvoice.server.grpc.server import listen
from cosyvoice.server.requests import SpeechRequest

pytestmark = pytest.mark.anyio
TEXT = "one two three four five six seven eight"
METHOD = "/cosyvoice.CosyVoice/Inference"


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: str | bytes) -> bytes:
    """A length-delimited field of the protobuf wire format."""
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def audio_of(message: bytes) -> bytes:
    """Field 1 of a response."""
    if not message:
        return b""
    assert message[0] == 1 << 3 | 2
    length, shift, at = 0, 0, 1
    while True:
        length |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not message[at - 1] & 0x80:
            break
    assert len(message) == at + length
    return message[at:]


SFT = field(1, field(1, "anna") + field(2, TEXT))


@contextlib.asynccontextmanager
async def calling(fake: Any) -> AsyncIterator[Callable[..., Any]]:
    """A client that sends and receives bytes."""
    server = await listen(fake.service, "127.0.0.1", 0)
    options = [("grpc.max_send_message_length", -1)]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
            yield channel.unary_stream(METHOD)
    finally:
        await server.close()


def follow_instructions(fake: Any) -> None:
    model = fake.service.tts.model
    model.config = model.config.model_copy(update={"end_of_prompt_id": 199})


async def speech(call: Any) -> np.ndarray:
    return np.frombuffer(b"".join([audio_of(message) async for message in call]), "<i2")


async def test_each_kind_of_request_is_spoken(make_service: Any, make_speech: Any) -> None:
    fake = make_service()
    follow_instructions(fake)
    prompt = (make_speech(3.0, 16000) * 32767).astype("<i2").tobytes()
    requests = (
        SFT,
        field(2, field(1, TEXT) + field(2, "one two three") + field(3, prompt)),
        field(3, field(1, TEXT) + field(2, prompt)),
        field(4, field(1, TEXT) + field(2, "bert") + field(3, "Speak slowly.")),
    )
    async with calling(fake) as call:
        for request in requests:
            samples = await speech(call(request))
            assert len(samples) > 24000 and np.abs(samples).max() > 1000
    assert fake.llm.held == 0 and fake.service.under_way == 0


async def test_it_says_what_the_service_says_and_at_which_rate(make_service: Any) -> None:
    fake = make_service()
    async with calling(fake) as call:
        stream = call(SFT)
        metadata = dict(await stream.initial_metadata())
        samples = await speech(stream)
    whole = np.concatenate([s async for s in fake.service.submit(SpeechRequest(TEXT, "anna"))])
    assert len(samples) == len(whole) and metadata["x-sample-rate"] == "24000"


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"", grpc.StatusCode.INVALID_ARGUMENT),
        (field(1, field(1, "nobody") + field(2, TEXT)), grpc.StatusCode.NOT_FOUND),
        (field(1, field(1, "anna")), grpc.StatusCode.INVALID_ARGUMENT),
        (field(1, field(1, "anna") + field(2, "unspeakable")), grpc.StatusCode.INVALID_ARGUMENT),
        (field(3, field(1, TEXT)), grpc.StatusCode.INVALID_ARGUMENT),
        (field(3, field(1, TEXT) + field(2, b"odd")), grpc.StatusCode.INVALID_ARGUMENT),
        (field(4, field(1, TEXT) + field(2, "anna")), grpc.StatusCode.INVALID_ARGUMENT),
        (field(1, b"\xff"), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_errors_have_a_code_and_a_cause(make_service: Any, request_bytes: bytes, code: grpc.StatusCode) -> None:
    async with calling(make_service()) as call:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await speech(call(request_bytes))
        assert caught.value.code() == code and caught.value.details()
        assert "Traceback" not in str(caught.value.details())
        assert len(await speech(call(SFT))) > 0


async def test_keys_are_asked_for(make_service: Any) -> None:
    async with calling(make_service(api_keys=["secret"])) as call:
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await speech(call(SFT, metadata=metadata))
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert len(await speech(call(SFT, metadata=(("authorization", "Bearer secret"),)))) > 0


async def test_a_full_server_says_when_to_come_again(make_service: Any) -> None:
    gate = threading.Event()
    fake = make_service(gate=gate, limits={"running": 1, "queue": 0})
    async with calling(fake) as call:
        first = asyncio.create_task(speech(call(SFT)))
        while not fake.service.under_way:
            await asyncio.sleep(0.005)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await speech(call(SFT))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(caught.value.trailing_metadata() or ())["retry-after"]) > 0
        gate.set()
        assert len(await first) > 0


async def test_a_cancelled_call_ends_its_work(make_service: Any) -> None:
    fake = make_service(delay=0.01)
    async with calling(fake) as call:
        stream = call(field(1, field(1, "anna") + field(2, "\n".join([TEXT] * 20))))
        await stream.read()
        stream.cancel()
        end = time.monotonic() + 2
        while fake.service.under_way:
            assert time.monotonic() < end
            await asyncio.sleep(0.005)
    assert fake.llm.held == 0


async def test_a_port_in_use_is_told(make_service: Any) -> None:
    fake = make_service()
    server = await listen(fake.service, "127.0.0.1", 0)
    with pytest.raises(ConfigError, match="--grpc-port"):
        await listen(fake.service, "127.0.0.1", server.port)
    await server.close()


async def test_the_shipped_model_speaks(mini_fake: Any) -> None:
    voice = mini_fake.service.voices.names()[0]
    async with calling(mini_fake) as call:
        samples = await speech(call(field(1, field(1, voice) + field(2, "The weather is fine today."))))
    assert 0.8 < len(samples) / 24000 < 6
