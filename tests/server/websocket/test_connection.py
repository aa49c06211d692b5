from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import websockets

from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.websocket import connection as module

pytestmark = pytest.mark.anyio
TEXT = "one two three four five six seven eight"
SENTENCE = f"{TEXT} nine. "


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.002)


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]


async def test_text_in_parts_is_spoken_as_one_text(make_service: Any, connect: Any) -> None:
    fake = make_service()
    async with connect(fake) as client:
        created = await client.receive()
        assert created["type"] == "session.created" and created["sample_rate"] == 24000
        assert created["limits"]["frame_bytes"] == fake.settings.limits.websocket_frame_bytes
        await client.send("session.config", voice="anna", seed=1, response_format="pcm")
        for part in (SENTENCE[i : i + 5] for i in range(0, len(SENTENCE), 5)):
            await client.send("input.text", text=part)
        await client.send("input.done")
        messages, audio = await client.until("session.done")
        whole = np.concatenate([s async for s in fake.service.submit(SpeechRequest(SENTENCE, "anna", seed=1))])
    assert kinds(messages) == ["session.updated", "audio.start", "audio.done", "session.done"]
    start, done = messages[1], messages[2]
    assert (start["format"], start["sample_rate"], start["sentence_index"]) == ("pcm", 24000, 0)
    assert SENTENCE.startswith(start["sentence_text"]) and start["sentence_text"]
    assert done["generation_id"] == start["generation_id"] == "gen-0"
    assert (done["status"], done["error"], done["total_bytes"]) == ("ok", False, len(audio))
    assert done["usage"]["input_tokens"] == len(SENTENCE) and done["timings"]["seed"] == 1
    assert messages[3]["total_sentences"] == 1
    np.testing.assert_allclose(np.frombuffer(audio, "<i2") / 32767, whole, atol=1e-4)


async def test_audio_comes_while_the_text_is_being_written(make_service: Any, connect: Any) -> None:
    async with connect(make_service()) as client:
        await client.send("input.text", text=SENTENCE + "and")
        messages, _ = await client.until("audio.start")
        assert isinstance(await client.receive(), bytes)
        await client.send("input.text", text=" more words to come.")
        await client.send("input.flush")
        messages, _ = await client.until("audio.done")
        assert messages[-1]["usage"]["input_tokens"] == len(SENTENCE + "and more words to come.")


async def test_generations_follow_each_other_on_one_connection(make_service: Any, connect: Any) -> None:
    fake = make_service()
    async with connect(fake) as client:
        await client.send("session.config", seed=3)
        await client.send("input.text", text=SENTENCE, generation_id="a")
        await client.send("input.text", text=SENTENCE, generation_id="b")  # another id completes the one before
        await client.send("input.flush")
        await client.send("input.text", text=SENTENCE)
        await client.send("input.done")
        messages, _ = await client.until("session.done")
        ids = [message["generation_id"] for message in messages if message["type"] == "audio.done"]
        assert ids == ["a", "b", "gen-2"]
        assert kinds(messages)[2:] == ["audio.start", "audio.done"] * 3 + ["session.done"]
        sizes = {message["total_bytes"] for message in messages if message["type"] == "audio.done"}
        assert len(sizes) == 1 and sizes != {0}
        await client.send("input.text", text=SENTENCE, generation_id="a")
        error = await client.receive()
        assert error["error"]["code"] == "generation_ended"
        await client.send("session.close")
        assert await client.closed() == module.NORMAL
    assert fake.llm.held == 0


async def test_formats_have_one_header_a_generation(make_service: Any, connect: Any) -> None:
    async with connect(make_service()) as client:
        await client.send("session.config", response_format="wav")
        for _ in range(2):
            await client.send("input.text", text=SENTENCE)
            await client.send("input.flush")
            _, audio = await client.until("audio.done")
            assert audio[:4] == b"RIFF" and audio.count(b"RIFF") == 1


async def test_a_recording_comes_with_the_configuration(make_service: Any, connect: Any, recording: bytes) -> None:
    async with connect(make_service()) as client:
        encoded = base64.b64encode(recording).decode()
        assert len(encoded) > 64 << 10  # larger than any other frame may be
        await client.send("session.config", ref_audio=encoded, ref_text="")
        await client.send("input.text", text=SENTENCE)
        await client.send("input.done")
        messages, audio = await client.until("session.done")
        assert "error" not in kinds(messages) and audio


async def test_cancel_stops_within_a_step(make_service: Any, connect: Any) -> None:
    fake = make_service(delay=0.01)
    async with connect(fake) as client:
        await client.send("input.text", text=SENTENCE * 20, generation_id="long")
        await client.send("input.flush")
        await client.send("input.text", text=SENTENCE, generation_id="next")
        await client.until("audio.start")
        await client.send("input.cancel", generation_id="long")
        begin = time.monotonic()
        messages, _ = await client.until("audio.done")
        assert time.monotonic() - begin < 1
        assert (messages[-1]["generation_id"], messages[-1]["status"]) == ("long", "cancelled")
        await client.send("input.done")
        messages, audio = await client.until("session.done")
        assert messages[-2]["generation_id"] == "next" and messages[-2]["status"] == "ok" and audio
    assert fake.llm.held == 0 and fake.service.under_way == 0


async def test_cancel_without_an_id_stops_all(make_service: Any, connect: Any) -> None:
    gate = threading.Event()
    fake = make_service(gate=gate)
    async with connect(fake) as client:
        for name in "abc":
            await client.send("input.text", text=SENTENCE, generation_id=name)
        await client.send("input.cancel")
        await client.send("input.cancel", generation_id="never heard of")
        await client.send("input.done")
        gate.set()
        messages, audio = await client.until("session.done")
        done = [message for message in messages if message["type"] == "audio.done"]
        assert [message["status"] for message in done] == ["cancelled"] * 3 and not audio


async def test_a_client_that_vanishes_frees_its_worker_even_while_it_waits_for_text(
    make_service: Any, connect: Any
) -> None:
    fake = make_service(limits={"running": 1})
    async with connect(fake) as client:
        await client.send("input.text", text="a few words without an")
        await until(lambda: fake.service.admission.paused == 1)
        client.connection.transport.abort()
        await until(lambda: fake.service.under_way == 0, 2)
    assert fake.llm.held == 0 and fake.service.admission.audio_seconds == 0


GARBAGE: list[tuple[str | bytes, str]] = [
    ("{", "invalid_json"),
    ("[1]", "invalid_json"),
    ("[" * 20_000, "invalid_json"),
    ('{"type": "input.text", "text": "\\ud800"}', "invalid_json"),
    ('{"type": "input.sing"}', "unknown_message"),
    ('{"type": ["input.text"]}', "unknown_message"),
    ('{"type": "input.text"}', "invalid_value"),
    ('{"type": "input.text", "text": 3}', "invalid_value"),
    ('{"type": "input.text", "text": "a", "generation_id": ""}', "invalid_value"),
    ('{"type": "session.config", "speed": NaN}', "invalid_value"),
    ('{"type": "session.config", "speed": 5}', "invalid_value"),
    ('{"type": "session.config", "seed": -1}', "invalid_value"),
    ('{"type": "session.config", "voice": "nobody"}', "voice_not_found"),
    ('{"type": "session.config", "language": "pt"}', "unsupported_language"),
    ('{"type": "session.config", "model": "nothing"}', "model_not_found"),
    ('{"type": "session.config", "response_format": "midi"}', "invalid_value"),
    ('{"type": "session.config", "ref_audio": "!!!"}', "invalid_value"),
    (b"\x00\x01", "binary_frame"),
]


async def test_garbage_is_answered_and_does_no_harm(make_service: Any, connect: Any) -> None:
    async with connect(make_service()) as client:
        await client.receive()
        for frame, code in GARBAGE:
            await client.connection.send(frame)
            error = await client.receive()
            assert error["type"] == "error" and error["error"]["code"] == code, frame
            assert error["message"] == error["error"]["message"] and error["generation_id"] is None
            await client.send("input.flush")  # a good message between bad ones
        await client.send("input.text", text=SENTENCE)
        await client.send("input.done")
        messages, audio = await client.until("session.done")
        assert kinds(messages) == ["audio.start", "audio.done", "session.done"] and audio


async def test_nothing_but_garbage_closes_the_connection(make_service: Any, connect: Any) -> None:
    async with connect(make_service()) as client:
        for _ in range(module.MAX_REFUSED + 1):
            await client.connection.send("?")
        assert await client.closed() == module.POLICY_VIOLATION


async def test_a_frame_that_is_too_large_closes_the_connection(make_service: Any, connect: Any) -> None:
    async with connect(make_service(limits={"websocket_frame_bytes": 2000})) as client:
        await client.send("input.text", text="x" * 3000)
        messages, _ = await client.until("error")
        assert messages[-1]["error"]["code"] == "frame_too_large"
        assert await client.closed() == module.MESSAGE_TOO_BIG


async def test_text_beyond_the_buffer_is_refused_and_the_rest_is_spoken(make_service: Any, connect: Any) -> None:
    async with connect(make_service(limits={"websocket_buffer_characters": 50})) as client:
        await client.receive()
        await client.send("input.text", text=SENTENCE)
        await client.send("input.text", text=SENTENCE)
        await client.send("input.done")
        messages, _ = await client.until("session.done")
        assert [m["error"]["code"] for m in messages if m["type"] == "error"] == ["text_buffer_full"]
        assert next(m for m in messages if m["type"] == "audio.done")["usage"]["input_tokens"] == len(SENTENCE)
        await client.send("input.text", text=SENTENCE)  # there is room again
        await client.send("input.done")
        messages, audio = await client.until("session.done")
        assert audio


async def test_too_many_generations_are_refused(make_service: Any, connect: Any) -> None:
    async with connect(make_service(limits={"websocket_generations": 1})) as client:
        await client.receive()
        await client.send("input.text", text=SENTENCE, generation_id="a")
        await client.send("input.text", text=SENTENCE, generation_id="b")
        messages, _ = await client.until("error")
        assert messages[-1]["error"]["code"] == "too_many_generations"


async def test_ends_of_input_do_not_pile_up(make_service: Any, connect: Any) -> None:
    gate = threading.Event()
    async with connect(make_service(gate=gate)) as client:
        await client.send("input.text", text=SENTENCE)
        for _ in range(module.MAX_WAITING + 3):
            await client.send("input.done")
        messages, _ = await client.until("error")
        assert messages[-1]["error"]["code"] == "too_many_waiting"
        gate.set()


async def test_silence_closes_the_connection(make_service: Any, connect: Any) -> None:
    async with connect(make_service(limits={"websocket_idle_seconds": 0.1})) as client:
        messages, _ = await client.until("error")
        assert messages[-1]["error"]["code"] == "idle_timeout"
        assert await client.closed() == module.IDLE


async def test_a_writer_who_pauses_for_long_gives_back_its_place(make_service: Any, connect: Any) -> None:
    fake = make_service(limits={"running": 1, "text_seconds": 0.1})
    async with connect(fake) as client:
        await client.send("input.text", text=SENTENCE, generation_id="slow")
        messages, _ = await client.until("audio.done")
        assert messages[-2]["error"]["code"] == "idle_timeout" and messages[-1]["status"] == "failed"
        await client.send("input.text", text=SENTENCE, generation_id="next")
        await client.send("input.done")
        messages, audio = await client.until("session.done")
        assert audio and "error" not in kinds(messages)
    assert fake.llm.held == 0


async def test_a_client_that_listens_is_not_idle(make_service: Any, connect: Any) -> None:
    async with connect(make_service(delay=0.01, limits={"websocket_idle_seconds": 0.1})) as client:
        await client.send("input.text", text=SENTENCE)
        await client.send("input.done")
        messages, audio = await client.until("session.done")
        assert audio and "error" not in kinds(messages)


async def test_a_failed_generation_is_told_and_the_next_one_spoken(make_service: Any, connect: Any) -> None:
    fake = make_service(limits={"queue": 0, "running": 1})
    async with connect(fake) as client:
        while fake.service.under_way:  # the warm-up has the only place
            await asyncio.sleep(0.01)
        await client.send("input.text", text="unspeakable. ", generation_id="bad")
        await client.send("input.flush")
        messages, _ = await client.until("audio.done")
        assert kinds(messages)[-2:] == ["error", "audio.done"]
        assert messages[-2]["generation_id"] == messages[-1]["generation_id"] == "bad"
        assert (messages[-1]["status"], messages[-1]["error"]) == ("failed", True)
        await client.send("input.text", text=SENTENCE)
        await client.send("input.done")
        messages, audio = await client.until("session.done")
        assert audio


async def test_the_rest_of_a_failed_text_is_passed_over(make_service: Any, connect: Any) -> None:
    fake = make_service(limits={"key_concurrency": 1})
    async with connect(fake) as client:
        await client.receive()
        other = fake.service.submit(SpeechRequest("\n".join([TEXT] * 50), client="address:127.0.0.1"))
        for word in SENTENCE.split():
            await client.send("input.text", text=word + " ")
            await asyncio.sleep(0.005)
        await other.aclose()
        await client.send("input.done")
        messages, audio = await client.until("session.done")
        assert kinds(messages) == ["error", "audio.done", "session.done"] and not audio
        assert messages[0]["error"]["type"] == "rate_limit_error"


async def test_blank_text_has_no_audio_but_an_end(make_service: Any, connect: Any) -> None:
    async with connect(make_service()) as client:
        await client.receive()
        await client.send("input.text", text=" \n")
        await client.send("input.done")
        await client.send("input.flush")  # nothing is open: passed over
        messages, audio = await client.until("session.done")
        assert kinds(messages) == ["audio.done", "session.done"] and not audio
        assert messages[0]["status"] == "ok"


async def test_keys_and_origins_are_checked_before_the_handshake(make_service: Any, connect: Any) -> None:
    fake = make_service(api_keys=["secret"])
    for options in (
        {},
        {"additional_headers": {"Authorization": "Bearer wrong"}},
        {"additional_headers": {"Authorization": "Bearer secret"}, "origin": "https://evil.example"},
    ):
        with pytest.raises(websockets.InvalidStatus):
            async with connect(make_service(api_keys=["secret"]), **options):
                pass
    async with connect(fake, additional_headers={"Authorization": "Bearer secret"}) as client:
        assert (await client.receive())["type"] == "session.created"


async def test_nobody_begins_a_generation_on_a_server_that_ends(make_service: Any, connect: Any) -> None:
    fake = make_service()
    async with connect(fake) as client:
        fake.service.begin_drain()
        await client.send("input.text", text=SENTENCE)
        messages, _ = await client.until("error")
        assert messages[-1]["error"]["code"] == "shutting_down"
        assert await client.closed() == module.SERVICE_RESTART


async def test_a_generation_completes_when_the_process_is_told_to_end(make_service: Any, connect: Any) -> None:
    async with connect(make_service(delay=0.005)) as client:
        await client.send("input.text", text=SENTENCE * 4)
        await client.send("input.flush")
        await client.until("audio.start")
        client.server.should_exit = True  # as a signal does
        messages, audio = await client.until("audio.done")
        assert messages[-1]["status"] == "ok" and messages[-1]["total_bytes"] == len(audio) > 0
        assert await client.closed() == module.SERVICE_RESTART


async def test_a_client_that_reads_nothing_is_given_up(make_service: Any, connect: Any) -> None:
    fake = make_service(limits={"stall_seconds": 0.2, "buffer_seconds": 1, "running": 1})
    async with connect(fake, max_queue=1) as client:
        for _ in range(2):
            await client.send("input.text", text="word " * 1600)
            await client.send("input.flush")
        await until(lambda: fake.service.under_way == 1)
        await until(lambda: fake.service.under_way == 0, 20)
        client.connection.transport.abort()
    assert fake.llm.held == 0


async def test_the_shipped_model_speaks_what_arrives(connect: Any, mini_fake: Any) -> None:
    async with connect(mini_fake) as client:
        await client.send("session.config", seed=2)
        for part in ("The ", "wea", "ther is fine", " today", "."):
            await client.send("input.text", text=part)
        await client.send("input.done")
        messages, audio = await client.until("session.done")
    samples = np.frombuffer(audio, "<i2") / 32768
    assert kinds(messages)[2:] == ["audio.start", "audio.done", "session.done"]
    assert 0.8 < len(samples) / 24000 < 6 and np.sqrt(np.mean(samples**2)) > 0.01
