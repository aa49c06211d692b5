"""A server on a real socket, and a client that collects what a generation says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import websockets

from cosyvoice.server.run import Server, make_server


class Client:
    """A WebSocket client that keeps what it is told."""

    def __init__(self, connection: Any, server: Server) -> None:
        self.connection, self.server = connection, server

    async def send(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def receive(self) -> dict[str, Any] | bytes:
        frame = await asyncio.wait_for(self.connection.recv(), 10)
        return frame if isinstance(frame, bytes) else json.loads(frame)

    async def until(self, kind: str) -> tuple[list[dict[str, Any]], bytes]:
        """Messages up to the first of `kind`, and the audio among them."""
        messages, audio = [], b""
        while True:
            frame = await self.receive()
            if isinstance(frame, bytes):
                audio += frame
                continue
            messages.append(frame)
            if frame["type"] == kind:
                return messages, audio

    async def closed(self) -> int:
        """The close code; messages before it are dropped."""
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await asyncio.wait_for(self.connection.recv(), 10)
        return int(self.connection.close_code)


@pytest.fixture
def connect() -> Callable[..., Any]:
    """`async with connect(fake) as client`; keywords are those of `websockets.connect`."""

    @contextlib.asynccontextmanager
    async def make(fake: Any, **options: Any) -> AsyncIterator[Client]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = make_server(fake.settings, fake.service)
            serving = asyncio.create_task(server.serve([listener]))
            while not server.started:
                await asyncio.sleep(0.005)
            port = listener.getsockname()[1]
            try:
                address = f"ws://127.0.0.1:{port}/v1/audio/speech/stream"
                async with websockets.connect(address, **{"max_size": None, **options}) as connection:
                    yield Client(connection, server)
            finally:
                server.should_exit = True
                await serving

    return make
