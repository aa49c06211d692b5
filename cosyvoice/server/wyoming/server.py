"""The Wyoming protocol of Home Assistant on a port of its own: text in, in parts or whole, audio out as it is spoken.

The protocol knows no keys, so this listens where no key is needed to be safe; see `cosyvoice.server.listeners`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from dataclasses import dataclass
from typing import Any, cast

from cosyvoice.errors import ConfigError
from cosyvoice.server.encoding import to_int16
from cosyvoice.server.errors import UNPROCESSABLE, RequestError, problem_of
from cosyvoice.server.feed import TextFeed
from cosyvoice.server.job import SpeechJob
from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.service import SpeechService
from cosyvoice.server.wyoming.events import Event, encode_event, read_event
from cosyvoice.server.wyoming.info import describe

MAX_WAITING = 16
"""Texts that may wait on one connection."""
_CLOSE_SECONDS = 1.0
_log = logging.getLogger("cosyvoice.server.wyoming")


class WyomingServer:
    """A listening server; make one with `listen`, `close` it in the end.

    Attributes:
        port: that it listens on.
    """

    def __init__(self, service: SpeechService) -> None:
        self._service = service
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises `ConfigError` where the address cannot be listened on."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} for Wyoming ({error.strerror or error}); choose another --wyoming-port"
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]
        _log.info("listening", extra={"address": host, "port": self.port})

    async def close(self) -> None:
        """Stop listening and end all connections."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._connections.add(task)
        limits = self._service.settings.limits
        try:
            if len(self._connections) <= limits.running + limits.queue:
                await Connection(self._service, reader, writer).run()
        except asyncio.CancelledError:
            pass  # the server is closing; the task ends here anyway
        except Exception:
            _log.exception("connection failed")
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(writer.wait_closed(), _CLOSE_SECONDS)


async def listen(service: SpeechService, host: str, port: int) -> WyomingServer:
    """Serve `service`; port 0 takes a free one. Raises `ConfigError` where the address cannot be listened on."""
    server = WyomingServer(service)
    await server.start(host, port)
    return server


@dataclass(eq=False)
class _Utterance:
    """A text to be spoken."""

    request: SpeechRequest
    streamed: bool
    """Whether its text comes in parts, and its end is told by an event."""
    blank: bool = False
    """Whether nothing has come that could be spoken; such a text has no audio, only an end."""
    job: SpeechJob | None = None

    def cancel(self) -> None:
        """Stop within one step."""
        if isinstance(self.request.text, TextFeed):
            self.request.text.close()
        if self.job is not None and self.job.ended_at is None:
            self.job.cancel()


class Connection:
    """One client: a task reads its events, another one speaks its texts in their order.

    A text that fails ends the connection behind the `error`, since clients wait for audio or the end and pass over
    errors.
    """

    def __init__(self, service: SpeechService, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._service, self._reader, self._writer = service, reader, writer
        self._limits = service.settings.limits
        address = (writer.get_extra_info("peername") or ("unknown",))[0]
        self._client = f"wyoming:{address}"
        self._request_id = f"wyoming-{secrets.token_hex(8)}"
        self._queue: asyncio.Queue[_Utterance] = asyncio.Queue()
        self._under_way: list[_Utterance] = []
        self._open: _Utterance | None = None
        """Whose text comes in parts."""
        self._begun = 0
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Serve the connection until either side closes it."""
        tasks = {asyncio.create_task(self._read_events()), asyncio.create_task(self._speak_utterances())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            error = next(iter(done)).exception()
            if error is not None and not isinstance(error, ConnectionError):
                self._cancel_all()
                await self._tell(error)
        finally:
            self._cancel_all()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _cancel_all(self) -> None:
        for utterance in self._under_way:
            utterance.cancel()

    async def _tell(self, error: BaseException) -> None:
        problem = problem_of(error)
        if not isinstance(error, RequestError) and problem.status >= 500:
            _log.error("connection failed", extra={"request_id": self._request_id}, exc_info=error)
        with contextlib.suppress(ConnectionError, RequestError):
            await self._send(Event("error", {"text": problem.message, "code": problem.code}))

    async def _read_events(self) -> None:
        while True:
            event = await self._next_event()
            if event is None:
                return
            await self._handle(event)

    async def _next_event(self) -> Event | None:
        """None where the client has left, or is silent without a reason."""
        limits = self._limits
        # A task, since an event that has come in part must not be lost when the time is over.
        reading = asyncio.create_task(read_event(self._reader, limits.websocket_frame_bytes))
        try:
            while not (await asyncio.wait({reading}, timeout=limits.websocket_idle_seconds))[0]:
                if not self._under_way or self._open is not None:
                    return None
            return reading.result()
        finally:
            reading.cancel()

    async def _handle(self, event: Event) -> None:
        """Events that are not known are passed over, as the protocol wants it."""
        if event.type == "describe":
            await self._send(Event("info", await asyncio.to_thread(describe, self._service)))
        elif event.type == "ping":
            await self._send(Event("pong", {"text": _text(event)} if event.data.get("text") else {}))
        elif event.type == "synthesize" and self._open is None:
            # Within a streamed text it repeats what came in parts, for servers that take no parts.
            self._enqueue(self._utterance(_text(event), event, streamed=False))
        elif event.type == "synthesize-start":
            self._finish()
            feed = TextFeed(self._limits.websocket_buffer_characters, self._limits.text_seconds)
            self._open = self._utterance(feed, event, streamed=True)
        elif event.type == "synthesize-chunk" and self._open is not None:
            self._append(self._open, _text(event))
        elif event.type == "synthesize-stop":
            self._finish()

    def _utterance(self, text: str | TextFeed, event: Event, streamed: bool) -> _Utterance:
        self._begun += 1
        request_id = f"{self._request_id}-{self._begun}"
        request = SpeechRequest(text, _voice(event), client=self._client, request_id=request_id)
        return _Utterance(request, streamed, blank=streamed)

    def _append(self, utterance: _Utterance, text: str) -> None:
        feed = utterance.request.text
        if isinstance(feed, TextFeed):
            feed.push(text)
            if text.strip() and utterance.blank:
                utterance.blank = False
                self._enqueue(utterance)

    def _finish(self) -> None:
        """Complete the text that comes in parts, if there is one."""
        utterance, self._open = self._open, None
        if utterance is not None and isinstance(utterance.request.text, TextFeed):
            utterance.request.text.finish()
            if utterance.blank:
                self._enqueue(utterance)

    def _enqueue(self, utterance: _Utterance) -> None:
        if len(self._under_way) >= MAX_WAITING:
            raise RequestError(
                f"{MAX_WAITING} texts wait already; wait for their audio", status=429, code="too_many_waiting"
            )
        self._under_way.append(utterance)
        self._queue.put_nowait(utterance)

    async def _speak_utterances(self) -> None:
        while True:
            utterance = await self._queue.get()
            self._service.delivering += 1
            try:
                if not utterance.blank:
                    await self._speak(utterance)
                if utterance.streamed:
                    await self._send(Event("synthesize-stopped"))
            finally:
                self._service.delivering -= 1
            self._under_way.remove(utterance)

    async def _speak(self, utterance: _Utterance) -> None:
        audio = {"rate": self._service.sample_rate, "width": 2, "channels": 1}
        job = utterance.job = self._service.submit(utterance.request)
        sent = 0
        try:
            await job.ready()
            await self._send(Event("audio-start", {**audio, "timestamp": 0}))
            async for samples in job:
                milliseconds = sent * 1000 // self._service.sample_rate
                data = to_int16(samples).tobytes()
                await self._send(Event("audio-chunk", {**audio, "timestamp": milliseconds}, data))
                sent += len(samples)
            await self._send(Event("audio-stop", {"timestamp": sent * 1000 // self._service.sample_rate}))
        finally:
            await job.aclose()

    async def _send(self, event: Event) -> None:
        """Raises `ConnectionError` where the client is gone, `RequestError` where it takes nothing."""
        async with self._sending:
            self._writer.write(encode_event(event))
            try:
                await asyncio.wait_for(self._writer.drain(), self._limits.stall_seconds)
            except (asyncio.TimeoutError, TimeoutError):
                self._writer.transport.abort()
                raise RequestError("the client took nothing", status=408, code="client_too_slow") from None


def _text(event: Event) -> str:
    text = event.data.get("text")
    if not isinstance(text, str):
        raise RequestError(f"{event.type} has no text", status=UNPROCESSABLE, param="text", code="invalid_event")
    return text


def _voice(event: Event) -> str | None:
    """The name of a voice; one that is asked for by its language alone is the first, which speaks them all."""
    voice: Any = event.data.get("voice")
    name = voice.get("name") if isinstance(voice, dict) else None
    return name if isinstance(name, str) and name else None
