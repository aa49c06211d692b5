"""Speech as an HTTP answer: raw bytes or server-sent events, stopped the moment the client leaves."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cosyvoice.engine.stages import FloatArray
from cosyvoice.server.encoding import MEDIA_TYPES, AudioFormat, Encoder, encode_whole, make_encoder
from cosyvoice.server.errors import Cancelled, problem_of
from cosyvoice.server.job import SpeechJob
from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.service import SpeechService

T = TypeVar("T")
TIMING_HEADER = "x-cosyvoice-timings"


class JobResponse(StreamingResponse):
    """A stream that belongs to a job, which ends with it however the stream ends."""

    def __init__(self, content: AsyncIterator[bytes], job: SpeechJob, media_type: str, headers: dict[str, str]) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._job.aclose()


async def begin(service: SpeechService, asked: SpeechRequest, http: Request) -> SpeechJob:
    """A job whose first samples are there. Raises what is wrong with it, and `Cancelled` where the client left."""
    job = service.submit(asked)
    try:
        await unless_disconnected(http, job.ready())
    except BaseException:
        await job.aclose()
        raise
    return job


async def unless_disconnected(http: Request, work: Awaitable[T]) -> T:
    """What `work` gives. Raises `Cancelled`, and cancels it, when the client leaves before."""
    doing = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnection(http))
    try:
        await asyncio.wait({doing, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise Cancelled
        return doing.result()
    finally:
        for task in (doing, watching):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task


def audio_stream(
    job: SpeechJob, audio_format: AudioFormat, sample_rate: int, headers: dict[str, str] | None = None
) -> Response:
    """The speech of `job` as it is made."""
    encoder = make_encoder(audio_format, sample_rate)
    return JobResponse(_encoded(job, encoder), job, MEDIA_TYPES[audio_format], dict(headers or {}))


def event_stream(
    job: SpeechJob,
    audio_format: AudioFormat,
    sample_rate: int,
    headers: dict[str, str],
    finish: Callable[[FloatArray | None], Awaitable[dict[str, Any]]],
    keep: bool,
) -> Response:
    """The same as OpenAI's events `speech.audio.delta` and `speech.audio.done`.

    Args:
        finish: gives further fields of the last event; it is given all samples [time] where `keep` is true.
        keep: hold on to the samples.
    """
    encoder = make_encoder(audio_format, sample_rate)
    headers = {"cache-control": "no-store", **headers}
    return JobResponse(_events(job, encoder, finish, keep), job, "text/event-stream", headers)


async def whole_answer(
    job: SpeechJob, audio_format: AudioFormat, sample_rate: int, http: Request, headers: dict[str, str]
) -> Response:
    """The complete file, with what it cost in a header."""
    try:
        samples = await unless_disconnected(http, collect(job))
    finally:
        await job.aclose()
    timings = json.dumps(asdict(job.timings))
    return Response(
        encode_whole(samples, audio_format, sample_rate),
        media_type=MEDIA_TYPES[audio_format],
        headers={**headers, TIMING_HEADER: timings},
    )


async def collect(job: SpeechJob) -> FloatArray:
    """All samples of `job` [time]."""
    return np.concatenate([samples async for samples in job])


def usage_of(job: SpeechJob) -> dict[str, int]:
    """Tokens as OpenAI counts them; the input is counted in characters where the model has no text tokens."""
    report = job.report
    output = sum(piece.tokens for piece in report.pieces) if report else 0
    return {
        "input_tokens": len(job.request.text),
        "output_tokens": output,
        "total_tokens": len(job.request.text) + output,
    }


async def _encoded(job: SpeechJob, encoder: Encoder, kept: list[FloatArray] | None = None) -> AsyncIterator[bytes]:
    try:
        async for samples in job:
            if kept is not None:
                kept.append(samples)
            data = encoder.push(samples)
            if data:
                yield data
        yield encoder.finish()
    finally:
        encoder.close()


async def _events(
    job: SpeechJob,
    encoder: Encoder,
    finish: Callable[[FloatArray | None], Awaitable[dict[str, Any]]],
    keep: bool,
) -> AsyncIterator[bytes]:
    kept: list[FloatArray] | None = [] if keep else None
    try:
        async for data in _encoded(job, encoder, kept):
            yield _event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
        further = await finish(np.concatenate(kept) if kept else None)
    except Cancelled:
        raise
    except Exception as error:
        # The status has been sent, so this is the only place left to say it.
        yield _event({"type": "error", **problem_of(error).body()})
        return
    yield _event({"type": "speech.audio.done", "usage": usage_of(job), **further})


def _event(data: dict[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


async def _disconnection(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
