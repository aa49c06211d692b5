from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from cosyvoice.server.channel import Channel
from cosyvoice.server.errors import Cancelled, RequestError

pytestmark = pytest.mark.anyio


def chunk(value: int, length: int = 10) -> np.ndarray:
    return np.full(length, value, np.float32)


async def test_chunks_come_in_order_and_then_the_end() -> None:
    channel = Channel(1000, 1.0, asyncio.get_running_loop())

    def write() -> None:
        for value in range(20):
            channel.put(chunk(value))
        channel.finish()

    threading.Thread(target=write).start()
    values = []
    while (samples := await channel.get()) is not None:
        values.append(int(samples[0]))
    assert values == list(range(20))
    assert await channel.get() is None


async def test_a_slow_reader_holds_the_writer_and_not_the_memory() -> None:
    channel = Channel(30, 5.0, asyncio.get_running_loop())
    written: list[int] = []

    def write() -> None:
        for value in range(10):
            channel.put(chunk(value))
            written.append(value)
        channel.finish()

    threading.Thread(target=write).start()
    await asyncio.sleep(0.1)
    assert len(written) == 3
    assert await channel.get() is not None
    await asyncio.sleep(0.1)
    assert len(written) == 4
    while await channel.get() is not None:
        pass
    assert len(written) == 10


async def test_a_reader_who_takes_nothing_is_given_up() -> None:
    channel = Channel(10, 0.05, asyncio.get_running_loop())
    channel.put(chunk(0))
    begin = time.monotonic()
    with pytest.raises(RequestError) as caught:
        await asyncio.to_thread(channel.put, chunk(1))
    assert caught.value.status == 408
    assert 0.04 < time.monotonic() - begin < 1.0


async def test_a_chunk_larger_than_the_buffer_passes() -> None:
    channel = Channel(10, 0.1, asyncio.get_running_loop())
    channel.put(chunk(1, 100))
    samples = await channel.get()
    assert samples is not None and len(samples) == 100


async def test_closing_stops_a_writer_that_waits() -> None:
    channel = Channel(10, 30.0, asyncio.get_running_loop())
    channel.put(chunk(0))
    waiting = asyncio.ensure_future(asyncio.to_thread(channel.put, chunk(1)))
    await asyncio.sleep(0.02)
    channel.close()
    with pytest.raises(Cancelled):
        await asyncio.wait_for(waiting, 1.0)
    with pytest.raises(Cancelled):
        await channel.get()


async def test_an_error_comes_behind_what_was_made_before() -> None:
    channel = Channel(100, 1.0, asyncio.get_running_loop())
    channel.put(chunk(1))
    channel.finish(ValueError("broken"))
    assert await channel.get() is not None
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            await channel.get()


def test_a_writer_survives_the_end_of_the_loop() -> None:
    loop = asyncio.new_event_loop()
    channel = Channel(100, 1.0, loop)
    loop.close()
    channel.put(chunk(1))
    channel.finish()
