"""What a client is told when a request fails: one mapping from exceptions to OpenAI's error shape.

Every front door uses it, so the same mistake has the same status, type and code over REST, SSE, WebSocket and gRPC.
Nothing of an unexpected exception reaches a client but a request id; what happened is in the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cosyvoice.errors import (
    AudioError,
    ConfigError,
    CosyVoiceError,
    GenerationError,
    SeveralSpeakersError,
    TextError,
    VoiceError,
)

INVALID = "invalid_request_error"
UNPROCESSABLE = 422
"""The request is well-formed, but what it asks for cannot be done."""
CLIENT_CLOSED = 499
"""The client left; nobody reads this status, the log and the metrics do."""


class RequestError(CosyVoiceError):
    """A request that is refused or given up.

    Args:
        message: cause and cure, for the client.
        status: of HTTP.
        kind: OpenAI's `type` of the error.
        param: the field that is wrong.
        code: short name of the error for programs.
        retry_after: seconds after which it is worth to try again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code, self.retry_after = status, kind, param, code, retry_after


class Cancelled(RequestError):
    """The client left or asked to stop; work on its request ends at the next step."""

    def __init__(self) -> None:
        super().__init__("the request was cancelled", status=CLIENT_CLOSED, code="cancelled")


@dataclass(frozen=True)
class Problem:
    """An error as clients see it."""

    status: int
    message: str
    kind: str
    param: str | None = None
    code: str | None = None
    retry_after: int | None = None

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {
            "error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code},
        }

    def headers(self) -> dict[str, str]:
        """Headers that belong to the status."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


# What the library raises for what a client sent: the field it is about, and a name for it.
_OF_THE_REQUEST: tuple[tuple[type[CosyVoiceError], str | None, str], ...] = (
    (TextError, "input", "invalid_text"),
    (SeveralSpeakersError, "ref_audio", "several_speakers"),
    (AudioError, "ref_audio", "invalid_audio"),
    (VoiceError, "voice", "invalid_voice"),
    (ConfigError, None, "invalid_value"),
    (GenerationError, "input", "generation_failed"),
)


def problem_of(error: BaseException, param: str | None = None) -> Problem:
    """How `error` is told to the client; `param` overrides the field that it is about."""
    if isinstance(error, RequestError):
        return Problem(error.status, str(error), error.kind, error.param or param, error.code, error.retry_after)
    for kind, field, code in _OF_THE_REQUEST:
        if isinstance(error, kind):
            return Problem(UNPROCESSABLE, str(error), INVALID, param or field, code)
    return Problem(
        500,
        "the server failed on this request; its log says why, under the request id",
        "server_error",
        None,
        "internal",
    )
