"""`WS /v1/audio/speech/stream`: text in as it is written, audio out as it is spoken.

Pages of other origins are refused, since the rule that keeps them from reading answers over HTTP does not hold for
WebSockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi import APIRouter, WebSocket

from cosyvoice.server.service import SpeechService
from cosyvoice.server.websocket.connection import POLICY_VIOLATION, Connection

router = APIRouter()


@router.websocket("/v1/audio/speech/stream")
async def stream_speech(socket: WebSocket) -> None:
    """Serve one connection until either side closes it."""
    service: SpeechService = socket.app.state.service
    if not origin_is_allowed(socket.headers.get("origin"), socket.headers.get("host"), service.settings.cors_origins):
        await socket.close(POLICY_VIOLATION, "origin not allowed")
        return
    await socket.accept()
    client = str(getattr(socket.state, "client", "anonymous"))
    await Connection(service, socket, client, str(getattr(socket.state, "request_id", ""))).run()


def origin_is_allowed(origin: str | None, host: str | None, allowed: Sequence[str]) -> bool:
    """Whether a page of `origin` may connect to `host`; programs that are no browsers send no origin."""
    if origin is None or "*" in allowed or origin in allowed:
        return True
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == str(host).lower()
    except ValueError:
        return False
