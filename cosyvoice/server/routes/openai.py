"""`POST /v1/audio/speech` and its batch: OpenAI's speech API with the extensions that its clients use."""

from __future__ import annotations

import asyncio
import base64
import secrets
from dataclasses import asdict
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from cosyvoice.engine.stages import FloatArray
from cosyvoice.server.answers import (
    audio_stream,
    begin,
    collect,
    event_stream,
    unless_disconnected,
    usage_of,
    whole_answer,
)
from cosyvoice.server.encoding import MEDIA_TYPES, encode_whole
from cosyvoice.server.errors import Cancelled, RequestError, problem_of
from cosyvoice.server.job import SpeechJob
from cosyvoice.server.requests import too_long
from cosyvoice.server.routes.common import SPEECH_ERRORS, Client, RequestId, Service
from cosyvoice.server.schemas import (
    BatchAnswer,
    BatchBody,
    BatchItem,
    BatchResult,
    ErrorDetail,
    SpeechAnswer,
    SpeechBody,
    Usage,
)
from cosyvoice.server.service import SpeechService
from cosyvoice.server.translate import check_model, ignored, speech_request

router = APIRouter(tags=["speech"])
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_EVENT: dict[str, Any] = {
    "schema": {
        "type": "object",
        "description": "One event of the stream.",
        "properties": {
            "event": {"enum": ["speech.audio.delta", "speech.audio.done", "error"]},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
        "required": ["event", "data"],
    }
}
_AUDIO: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The speech as it is made, or events that carry it.",
        "content": {**dict.fromkeys(MEDIA_TYPES.values(), _BINARY), "text/event-stream": _EVENT},
        "model": SpeechAnswer,
    }
}


@router.post("/v1/audio/speech", response_class=Response, responses={**_AUDIO, **SPEECH_ERRORS})
async def create_speech(
    body: SpeechBody, http: Request, service: Service, client: Client, request_id: RequestId
) -> Response:
    """Speak a text."""
    check_model(service, body.model)
    asked = await speech_request(service, body.input, body, client, request_id)
    headers = ignored(service, body)
    audio_format = body.response_format or "mp3"
    events = body.stream_format == "sse" or (body.stream_format is None and bool(body.stream))
    job = await begin(service, asked, http)
    try:
        if events:
            finish = partial(_last_event, service, body, job)
            return event_stream(
                job, audio_format, service.sample_rate, headers, finish, keep=bool(body.return_timestamps)
            )
        if body.return_timestamps:
            return await _timed_answer(service, body, job, http, headers)
        if body.return_timing:
            return await whole_answer(job, audio_format, service.sample_rate, http, headers)
        return audio_stream(job, audio_format, service.sample_rate, headers)
    except BaseException:
        await job.aclose()
        raise


async def _timed_answer(
    service: SpeechService, body: SpeechBody, job: SpeechJob, http: Request, headers: dict[str, str]
) -> Response:
    """Speech and the times of its words in JSON."""
    samples = await unless_disconnected(http, collect(job))
    fields = await _last_event(service, body, job, samples)
    audio_format = body.response_format or "mp3"
    data = encode_whole(samples, audio_format, service.sample_rate)
    answer = SpeechAnswer(
        audio=base64.b64encode(data).decode(),
        media_type=MEDIA_TYPES[audio_format],
        usage=Usage(**usage_of(job)),
        **fields,
    )
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json", headers=headers)


async def _last_event(
    service: SpeechService, body: SpeechBody, job: SpeechJob, samples: FloatArray | None
) -> dict[str, Any]:
    """What the client wants to know behind the speech."""
    fields: dict[str, Any] = {}
    if body.return_timestamps and samples is not None:
        words = await asyncio.to_thread(service.tts.align, samples, service.sample_rate, body.input)
        fields["timestamps"] = [asdict(word) for word in words]
    if body.return_timing:
        fields["timings"] = asdict(job.timings)
    return fields


@router.post("/v1/audio/speech/batch", response_model_exclude_none=True, responses=SPEECH_ERRORS)
async def create_batch(
    body: BatchBody, http: Request, service: Service, client: Client, request_id: RequestId
) -> BatchAnswer:
    """Speak several texts; one that fails does not spoil the others."""
    check_model(service, body.model)
    most = service.settings.limits.batch_items
    if len(body.items) > most:
        raise RequestError(
            f"the batch has {len(body.items)} items, at most {most} are taken; send several batches",
            param="items", code="array_above_max_length",
        )  # fmt: skip
    longest = max(len(item.input) for item in body.items)
    if longest > service.settings.limits.text_characters:
        raise too_long(longest, service.settings.limits, "items")
    # As many at a time as can speak, so that one batch does not fill the queue.
    places = asyncio.Semaphore(service.settings.limits.running)
    work = asyncio.gather(
        *(
            _batch_item(service, index, _with_defaults(body, item), client, f"{request_id}-{index}", places)
            for index, item in enumerate(body.items)
        )
    )
    results = await unless_disconnected(http, work)
    if all(result.error is not None for result in results):
        # Nothing was spoken: the first reason is the answer, so that clients who are to come again do.
        problem = next((error for error in (_retry_of(result) for result in results) if error), None)
        if problem is not None:
            raise problem
    succeeded = sum(result.status == "success" for result in results)
    return BatchAnswer(
        id=f"speech-batch-{secrets.token_hex(8)}",
        results=results,
        total=len(results),
        succeeded=succeeded,
        failed=len(results) - succeeded,
    )


def _with_defaults(body: BatchBody, item: BatchItem) -> BatchItem:
    """`item` with what the batch says for all items."""
    defaults = body.model_dump(exclude_none=True, exclude={"items", "model"})
    return BatchItem(**{**defaults, **item.model_dump(exclude_none=True)})


async def _batch_item(
    service: SpeechService, index: int, item: BatchItem, client: str, request_id: str, places: asyncio.Semaphore
) -> BatchResult:
    job = None
    try:
        async with places:
            job = service.submit(await speech_request(service, item.input, item, client, request_id))
            samples = await collect(job)
    except Cancelled:
        raise
    except Exception as error:
        problem = problem_of(error)
        detail = ErrorDetail(message=problem.message, type=problem.kind, param=problem.param, code=problem.code)
        return BatchResult(index=index, status="error", error=detail)
    finally:
        if job is not None:
            await job.aclose()
    audio_format = item.response_format or "mp3"
    data = encode_whole(samples, audio_format, service.sample_rate)
    return BatchResult(
        index=index,
        status="success",
        audio_data=base64.b64encode(data).decode(),
        media_type=MEDIA_TYPES[audio_format],
        usage=Usage(**usage_of(job)),
    )


def _retry_of(result: BatchResult) -> RequestError | None:
    """The refusal of an item for want of capacity, as one of the whole batch."""
    error = result.error
    if error is None or error.type != "rate_limit_error":
        return None
    return RequestError(error.message, status=429, kind=error.type, code=error.code, retry_after=5)
