"""One WebSocket connection: a task reads messages, another one speaks the generations in their order.

Binary frames carry no name, so generations are never mixed: the frames between `audio.start` and `audio.done` belong
to that generation. A generation is admitted when its turn comes, like any other request; until then it costs its text
only. Whatever ends the connection ends the work for it within one step.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from fastapi import WebSocket

from cosyvoice.server.encoding import AudioFormat, make_encoder
from cosyvoice.server.errors import Cancelled, RequestError, problem_of
from cosyvoice.server.feed import TextFeed
from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.service import SpeechService
from cosyvoice.server.settings import Limits
from cosyvoice.server.translate import check_model, speech_request
from cosyvoice.server.websocket.generation import Generation, Outcome
from cosyvoice.server.websocket.messages import (
    ClientMessage,
    InputCancel,
    InputDone,
    InputFlush,
    InputText,
    SessionClose,
    SessionConfig,
    done_message,
    error_message,
    parse,
    start_message,
)

NORMAL, POLICY_VIOLATION, MESSAGE_TOO_BIG, INTERNAL_ERROR, SERVICE_RESTART = 1000, 1008, 1009, 1011, 1012
IDLE, TOO_SLOW = 4408, 4413
"""Close codes: those of the WebSocket standard, and two of our own."""

MAX_REFUSED = 16
"""Messages in a row that are answered with an error; one more closes the connection."""
MAX_WAITING = 32
"""Generations and ends of input that may wait on one connection."""
_CLOSE_SECONDS = 2.0
_TEXT_ROOM = 1 << 14
_log = logging.getLogger("cosyvoice.server.websocket")


def largest_frame(limits: Limits) -> int:
    """Bytes of the largest frame that is read at all: a configuration with a recording in base64."""
    return max(limits.websocket_frame_bytes, limits.upload_bytes * 4 // 3 + _TEXT_ROOM)


class _Left(Exception):
    """The client is gone."""


class _Hangup(Exception):
    """The connection is to be closed with `code`, after `error` has been told."""

    def __init__(self, code: int, error: RequestError) -> None:
        super().__init__(str(error))
        self.code, self.error = code, error


@dataclass(frozen=True)
class _End:
    """Of the input: everything before it is to be spoken, then `session.done` is said."""

    close: bool


class Connection:
    """An accepted connection; `run` it once.

    Args:
        service: speaks.
        socket: accepted.
        client: whose limits count.
        request_id: of the connection; those of its generations begin with it.
    """

    def __init__(self, service: SpeechService, socket: WebSocket, client: str, request_id: str) -> None:
        self._service, self._socket, self._client, self._request_id = service, socket, client, request_id
        self._limits = service.settings.limits
        self._template = SpeechRequest("", client=client)
        self._format: AudioFormat = "pcm"
        self._open: Generation | None = None
        self._unfinished: dict[str, Generation] = {}
        self._names: set[str] = set()
        self._queue: asyncio.Queue[Generation | _End] = asyncio.Queue()
        self._spoken = 0
        self._refused = 0
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Serve the connection until it is closed."""
        begin = time.monotonic()
        tasks = {asyncio.create_task(self._read_messages()), asyncio.create_task(self._speak_generations())}
        code = INTERNAL_ERROR
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # Before the close handshake, which a client may draw out.
            self._cancel_all()
            code = await self._close(next(iter(done)))
        finally:
            self._cancel_all()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            _log.info(
                "websocket",
                extra={
                    "request_id": self._request_id, "generations": len(self._names), "code": code,
                    "seconds": round(time.monotonic() - begin, 3),
                },
            )  # fmt: skip

    async def _close(self, ended: asyncio.Task[None]) -> int:
        """Close the connection as the task that has ended says."""
        error = ended.exception()
        if isinstance(error, _Left):
            return NORMAL
        if error is None:
            code = NORMAL
        elif isinstance(error, _Hangup):
            code = error.code
            with contextlib.suppress(_Left, _Hangup):
                await self._send(error_message(problem_of(error.error), None), _CLOSE_SECONDS)
        else:
            code = INTERNAL_ERROR
            _log.error("connection failed", extra={"request_id": self._request_id}, exc_info=error)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._socket.close(code), _CLOSE_SECONDS)
        return code

    async def _read_messages(self) -> None:
        await self._send(
            {
                "type": "session.created",
                "session_id": self._request_id,
                "model": self._service.model_name,
                "sample_rate": self._service.sample_rate,
                "response_format": self._format,
                "limits": self._told_limits(),
            }
        )
        async for frame in self._frames():
            try:
                await self._handle(await self._parse(frame))
            except RequestError as error:
                self._refused += 1
                if self._refused > MAX_REFUSED:
                    raise _Hangup(POLICY_VIOLATION, error) from None
                await self._send(error_message(problem_of(error), None))
            else:
                self._refused = 0

    def _told_limits(self) -> dict[str, float]:
        limits = self._limits
        return {
            "frame_bytes": limits.websocket_frame_bytes,
            "config_frame_bytes": largest_frame(limits),
            "buffer_characters": limits.websocket_buffer_characters,
            "generations": limits.websocket_generations,
            "idle_seconds": limits.websocket_idle_seconds,
            "text_seconds": limits.text_seconds,
        }

    async def _frames(self) -> AsyncIterator[dict[str, Any]]:
        """What the client sends, as long as it is there and not silent without a reason."""
        while True:
            try:
                message = await asyncio.wait_for(self._socket.receive(), self._limits.websocket_idle_seconds)
            except (asyncio.TimeoutError, TimeoutError):
                if any(generation.complete for generation in self._unfinished.values()):
                    continue  # it listens
                raise _Hangup(
                    IDLE,
                    RequestError(
                        f"nothing came for {self._limits.websocket_idle_seconds:g} s; connect again when there is text",
                        status=408, code="idle_timeout",
                    ),
                ) from None  # fmt: skip
            except RuntimeError:
                raise _Left from None
            if message["type"] == "websocket.disconnect":
                raise _Left
            yield dict(message)

    async def _parse(self, frame: dict[str, Any]) -> ClientMessage:
        text, binary = frame.get("text"), frame.get("bytes")
        most = self._limits.websocket_frame_bytes
        if text is None:
            self._check_size(len(binary or b""), most)
            raise RequestError("the frame is binary; send JSON as text, recordings in base64", code="binary_frame")
        size = len(text.encode("utf-8", "surrogatepass"))
        self._check_size(size, largest_frame(self._limits))
        if size <= most:
            return parse(text)
        message = await asyncio.to_thread(parse, text)
        if not isinstance(message, SessionConfig):
            self._check_size(size, most)
        return message

    def _check_size(self, size: int, most: int) -> None:
        if size > most:
            raise _Hangup(
                MESSAGE_TOO_BIG,
                RequestError(
                    f"the frame has {size} bytes, at most {most} are taken; send the text in several frames",
                    status=413, code="frame_too_large",
                ),
            )  # fmt: skip

    async def _handle(self, message: ClientMessage) -> None:
        if isinstance(message, SessionConfig):
            await self._configure(message)
        elif isinstance(message, InputText):
            self._append(message)
        elif isinstance(message, InputFlush):
            self._flush()
        elif isinstance(message, InputCancel):
            self._cancel(message.generation_id)
        elif isinstance(message, (InputDone, SessionClose)):
            if self._queue.qsize() >= MAX_WAITING:
                raise _too_many_waiting()
            self._flush()
            self._queue.put_nowait(_End(close=isinstance(message, SessionClose)))

    async def _configure(self, config: SessionConfig) -> None:
        """All of a configuration holds, or nothing of it."""
        check_model(self._service, config.model)
        template = await speech_request(self._service, "", config, self._client, self._request_id)
        replace(template, text="text").check(self._limits)
        voice = None if template.reference is not None else self._service.voices.canonical(template.voice)
        self._template, self._format = template, config.response_format or "pcm"
        await self._send({"type": "session.updated", "voice": voice, "response_format": self._format})

    def _append(self, message: InputText) -> None:
        """Add to the open generation, or begin one where there is none or another one is named."""
        name, text = message.generation_id, message.text
        most = self._limits.websocket_buffer_characters
        if sum(len(generation.feed) for generation in self._unfinished.values()) + len(text) > most:
            raise RequestError(
                f"more than {most} characters wait to be spoken; send this text again after the next audio.done",
                status=429, kind="rate_limit_error", param="text", code="text_buffer_full",
            )  # fmt: skip
        generation = self._open
        if generation is None or name not in (None, generation.name):
            generation = self._begin(name)
        if generation.ended:
            return  # it failed while its text was arriving; the rest of the text is of no use
        generation.push(text)
        if not generation.queued and not generation.blank:
            self._enqueue(generation)

    def _begin(self, name: str | None) -> Generation:
        if name in self._names:
            raise RequestError(
                f"the generation {name!r} has ended; begin a new one under another id",
                param="generation_id", code="generation_ended",
            )  # fmt: skip
        if len(self._names) >= self._limits.websocket_generations:
            raise RequestError(
                f"this connection has had {len(self._names)} generations; connect again for more",
                status=429, kind="rate_limit_error", code="too_many_generations",
            )  # fmt: skip
        if len(self._unfinished) >= MAX_WAITING or self._queue.qsize() >= MAX_WAITING:
            raise _too_many_waiting()
        self._flush()
        index = len(self._names)
        if name is None:
            name = next(free for number in range(index, 2 * index + 2) if (free := f"gen-{number}") not in self._names)
        feed = TextFeed(self._limits.websocket_buffer_characters, self._limits.text_seconds)
        request = replace(self._template, text=feed, request_id=f"{self._request_id}-{index}")
        generation = self._open = Generation(name, index, request, feed, self._format)
        self._names.add(name)
        self._unfinished[name] = generation
        return generation

    def _enqueue(self, generation: Generation) -> None:
        if not generation.queued:
            generation.queued = True
            self._queue.put_nowait(generation)

    def _flush(self) -> None:
        """Complete the open generation, if there is one."""
        generation, self._open = self._open, None
        if generation is not None:
            generation.finish()
            self._enqueue(generation)

    def _cancel(self, name: str | None) -> None:
        """One that has ended meanwhile, or is not known, is passed over: the client could not know."""
        for generation in list(self._unfinished.values()):
            if name in (None, generation.name):
                if generation is self._open:
                    self._open = None
                generation.cancel()
                self._enqueue(generation)

    def _cancel_all(self) -> None:
        for generation in self._unfinished.values():
            generation.cancel()

    async def _speak_generations(self) -> None:
        while True:
            item = await self._queue.get()
            self._service.delivering += 1
            try:
                if isinstance(item, Generation):
                    await self._generate(item)
                    continue
                await self._send({"type": "session.done", "total_sentences": self._spoken})
                self._spoken = 0
                if item.close:
                    return
            finally:
                self._service.delivering -= 1

    async def _generate(self, generation: Generation) -> None:
        """Speak one generation and tell how it ended, whatever happened."""
        sent = 0
        outcome: Outcome = "ok"
        try:
            if generation.cancelled:
                raise Cancelled
            if not generation.blank:
                async with contextlib.aclosing(self._audio(generation)) as parts:
                    async for data in parts:
                        sent += len(data)
                        await self._send(data)
        except (_Left, _Hangup):
            raise
        except Cancelled:
            outcome = "cancelled"
        except Exception as error:
            outcome = "failed"
            await self._send(error_message(problem_of(error), generation.name))
            if isinstance(error, RequestError) and error.code == "shutting_down":
                raise _Hangup(SERVICE_RESTART, error) from None
        self._end(generation)
        await self._send(done_message(generation, outcome, sent))

    async def _audio(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """The encoded speech; `audio.start` goes before the first of it."""
        job = generation.job = self._service.submit(generation.request)
        encoder = None
        try:
            await job.ready()
            encoder = make_encoder(generation.audio_format, self._service.sample_rate)
            await self._send(start_message(generation, self._service.sample_rate))
            async for samples in job:
                data = encoder.push(samples)
                if data:
                    yield data
            data = encoder.finish()
            if data:
                yield data
        finally:
            await job.aclose()
            if encoder is not None:
                encoder.close()

    def _end(self, generation: Generation) -> None:
        self._unfinished.pop(generation.name, None)
        self._spoken += 1
        generation.end()

    async def _send(self, message: dict[str, Any] | bytes, seconds: float | None = None) -> None:
        """Raises `_Left` where the client is gone, `_Hangup` where it takes nothing."""
        stall = self._limits.stall_seconds if seconds is None else seconds
        try:
            async with self._sending:
                if isinstance(message, bytes):
                    await asyncio.wait_for(self._socket.send_bytes(message), stall)
                else:
                    await asyncio.wait_for(self._socket.send_text(json.dumps(message)), stall)
        except (asyncio.TimeoutError, TimeoutError):
            error = RequestError(
                f"the client took nothing for {stall:g} s; read what comes", status=408, code="client_too_slow"
            )
            raise _Hangup(TOO_SLOW, error) from None
        except Exception:
            raise _Left from None


def _too_many_waiting() -> RequestError:
    return RequestError(
        f"{MAX_WAITING} generations wait already; begin the next one after an audio.done",
        status=429, kind="rate_limit_error", code="too_many_waiting",
    )  # fmt: skip
