"""What routes share: the service, who asks, and the errors that every one of them may answer with."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import Depends, Request

from cosyvoice.server.schemas import ErrorAnswer
from cosyvoice.server.service import SpeechService

_MEANINGS = {
    400: "The request is malformed: a field is missing, of the wrong type or out of range.",
    401: "An API key is needed, or the one that was sent is not accepted.",
    403: "What the request is about may not be changed.",
    404: "There is no such model or voice.",
    408: "The client was too slow.",
    409: "It collides with what is there.",
    413: "Too much text or audio.",
    422: "The request is well-formed, but cannot be done.",
    429: "The server is busy, or this client has used its share; `Retry-After` says when to come again.",
    500: "The server failed.",
    503: "The server is starting or shutting down.",
    504: "It took too long.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: OpenAI's error shape under each of `statuses`, and what any route can answer."""
    every = sorted({*statuses, 400, 401, 413, 422})
    return {status: {"model": ErrorAnswer, "description": _MEANINGS[status]} for status in every}


SPEECH_ERRORS = errors(404, 408, 429, 500, 503, 504)


def service_of(request: Request) -> SpeechService:
    """The service that the application was made for."""
    return cast(SpeechService, request.app.state.service)


def client_of(request: Request) -> str:
    """Name of the client; limits are counted by it."""
    return str(getattr(request.state, "client", "anonymous"))


def request_id_of(request: Request) -> str:
    """Id of the request in logs and traces."""
    return str(getattr(request.state, "request_id", ""))


Service = Annotated[SpeechService, Depends(service_of)]
Client = Annotated[str, Depends(client_of)]
RequestId = Annotated[str, Depends(request_id_of)]
