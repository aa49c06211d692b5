"""The released gRPC service on a port of its own, before the same `SpeechService` as everything else.

A key is sent as metadata, `authorization: Bearer KEY`. Errors have the message of the HTTP answer and the status code
next to it.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from cosyvoice.errors import ConfigError
from cosyvoice.server.auth import authenticate
from cosyvoice.server.encoding import to_int16
from cosyvoice.server.errors import UNPROCESSABLE, RequestError, problem_of
from cosyvoice.server.grpc.messages import METHOD, PAYLOAD, SERVICE, Request, Response
from cosyvoice.server.released import prompt_request, reference_of_samples, speaker_request
from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.service import SpeechService
from cosyvoice.server.voices import Reference

RATE_METADATA = "x-sample-rate"
_TEXT_ROOM = 1 << 18
"""Bytes of a message beside a recording."""
_LARGEST_PART = 1 << 19
"""Samples of one message; clients take four megabytes unless they say otherwise."""
_GRACE_SECONDS = 1.0
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_log = logging.getLogger("cosyvoice.server.grpc")


class GRPCServer:
    """A listening server; make one with `listen`, `close` it in the end.

    Attributes:
        port: that it listens on.
    """

    def __init__(self, server: grpc.aio.Server, port: int) -> None:
        self._server, self.port = server, port

    async def close(self) -> None:
        """Stop listening; calls that are under way get a moment to end."""
        await self._server.stop(_GRACE_SECONDS)


async def listen(service: SpeechService, host: str, port: int) -> GRPCServer:
    """Serve `service`; port 0 takes a free one. Raises `ConfigError` where the address cannot be listened on."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", service.settings.limits.upload_bytes + _TEXT_ROOM),
            # Two servers on one port would answer by turns.
            ("grpc.so_reuseport", 0),
        ]
    )
    # Requests are parsed in the method, where an answer can be given to one that is damaged.
    handler = grpc.unary_stream_rpc_method_handler(
        _Inference(service).speak, response_serializer=Response.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError:
        raise ConfigError(f"cannot listen on {address} for gRPC; choose another --grpc-port") from None
    await server.start()
    _log.info("listening", extra={"address": host, "port": bound})
    return GRPCServer(server, bound)


class _Inference:
    """The method `Inference`."""

    def __init__(self, service: SpeechService) -> None:
        self._service = service

    async def speak(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        """One call."""
        request_id = f"grpc-{secrets.token_hex(8)}"
        try:
            await context.send_initial_metadata(
                (("x-request-id", request_id), (RATE_METADATA, str(self._service.sample_rate)))
            )
            async with contextlib.aclosing(self._speak(request, context, request_id)) as parts:
                async for part in parts:
                    yield part
        except Exception as error:
            if isinstance(error, grpc.RpcError):
                raise
            problem = problem_of(error)
            if problem.status >= 500 and not isinstance(error, RequestError):
                _log.exception("call failed", extra={"request_id": request_id})
            trailer = (("retry-after", str(problem.retry_after)),) if problem.retry_after is not None else ()
            await context.abort(_CODES.get(problem.status, grpc.StatusCode.INTERNAL), problem.message, trailer)

    async def _speak(
        self, request: bytes, context: grpc.aio.ServicerContext[Any, Any], request_id: str
    ) -> AsyncGenerator[Any, None]:
        service = self._service
        job = service.submit(speech_request(service, request, _client(service, context), request_id))
        try:
            async for samples in job:
                for begin in range(0, len(samples), _LARGEST_PART):
                    data: np.ndarray = to_int16(samples[begin : begin + _LARGEST_PART])
                    yield Response(tts_audio=data.tobytes())
        finally:
            # A call that its client cancels, or leaves, ends here as well.
            await job.aclose()


def speech_request(service: SpeechService, data: bytes, client: str, request_id: str) -> SpeechRequest:
    """What the `Request` in `data` asks for. Raises `RequestError`."""
    try:
        request = Request.FromString(data)
    except DecodeError:
        raise RequestError("the request cannot be parsed; encode it as cosyvoice.proto says", code="damaged") from None
    kind = request.WhichOneof(PAYLOAD)
    if kind is None:
        raise RequestError("the request is empty; set one of its payloads", status=UNPROCESSABLE, code="empty_request")
    payload = getattr(request, kind)
    text = payload.tts_text
    if kind == "sft_request":
        return speaker_request(service, text, payload.spk_id, None, client, request_id)
    if kind == "instruct_request":
        return speaker_request(service, text, payload.spk_id, payload.instruct_text, client, request_id)
    prompt: Reference = reference_of_samples(payload.prompt_audio, getattr(payload, "prompt_text", ""))
    return prompt_request(service, text, prompt, None, client, request_id)


def _client(service: SpeechService, context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Name of the caller; raises `RequestError` without an accepted key."""
    metadata = {str(key): value for key, value in context.invocation_metadata() or ()}
    authorization = metadata.get("authorization")
    address = context.peer().partition(":")[2].rpartition(":")[0]
    return authenticate(
        service.settings.api_keys, authorization if isinstance(authorization, str) else None, address or None
    )
