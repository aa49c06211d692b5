"""What surrounds every HTTP request: an id, the log line, keys, the size of bodies, and no traceback to clients.

Plain ASGI, so that streams pass through unbuffered and a client's leaving is seen.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from cosyvoice.errors import CosyVoiceError
from cosyvoice.server.auth import authenticate
from cosyvoice.server.errors import RequestError, problem_of
from cosyvoice.server.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PUBLIC_PATHS = frozenset({"/health", "/livez", "/readyz", "/openapi.json"})
"""Asked without a key: by those who watch the server, and those who want to know how to ask."""
PAGE_PATH = "/ui"
"""The page has a login of its own, since browsers send no keys."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger("cosyvoice.server.http")


class RequestContext:
    """Outermost: gives the request an id, counts and logs its answer, and answers for what failed inside."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            # The framework wraps what is raised behind the beginning of an answer.
            cause = error.__cause__ if isinstance(error.__cause__, CosyVoiceError) else error
            if status == 0:
                await send_problem(answer, cause)
            if problem_of(cause).status >= 500:
                _log.exception("request failed", extra={"request_id": request_id})
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            self._metrics.response(route, status)
            _log.info(
                "http",
                extra={
                    "request_id": request_id, "method": scope["method"], "route": route, "status": status,
                    "seconds": round(time.monotonic() - begin, 4),
                },
            )  # fmt: skip


class Authentication:
    """Refuses requests without an accepted key, before anything of their body is read."""

    def __init__(self, app: App, keys: tuple[str, ...]) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        address = (scope.get("client") or (None,))[0]
        try:
            state["client"] = authenticate(self._keys, _header(scope, b"authorization"), address)
        except RequestError as error:
            if scope["path"] in PUBLIC_PATHS or scope["path"] == PAGE_PATH or scope["path"].startswith(f"{PAGE_PATH}/"):
                state["client"] = "public"
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": "invalid API key"})
                return
            else:
                await send_problem(send, error)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies that are too large: by their declared length, or by counting where none is declared."""

    def __init__(self, app: App, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = _header(scope, b"content-length")
        if declared is not None:
            if not declared.isdecimal():
                await send_problem(send, RequestError("the Content-Length is no number", code="invalid_header"))
            elif int(declared) > self._most:
                await send_problem(send, self._refusal())
            else:
                await self._app(scope, receive, send)
            return
        # Without a declared length the body is read first, since once the application reads there is no way
        # to answer but through it.
        kept: list[Message] = []
        size = 0
        while True:
            message = await receive()
            kept.append(message)
            size += len(message.get("body", b""))
            if size > self._most:
                await send_problem(send, self._refusal())
                return
            if message["type"] != "http.request" or not message.get("more_body", False):
                break

        async def replay() -> Message:
            return kept.pop(0) if kept else await receive()

        await self._app(scope, replay, send)

    def _refusal(self) -> RequestError:
        return RequestError(
            f"the body is larger than the {self._most} bytes that are taken; send a shorter recording or text",
            status=413, code="body_too_large",
        )  # fmt: skip


async def send_problem(send: Send, error: BaseException) -> None:
    """A complete answer in OpenAI's error shape."""
    problem = problem_of(error)
    body = json.dumps(problem.body()).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **{name.lower(): value for name, value in problem.headers().items()},
    }
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> str:
    """The client's own id where it is harmless, or a new one."""
    own = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return own.decode() if _REQUEST_ID.fullmatch(own) else f"req-{secrets.token_hex(8)}"


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
