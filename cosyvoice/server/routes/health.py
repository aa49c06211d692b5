"""Whether the process lives, and whether it can speak: two questions, since a busy server must not be restarted."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

import cosyvoice
from cosyvoice.server.routes.common import Service

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """Whether requests are spoken."""

    status: Literal["ready", "starting", "draining", "failed"]
    message: str = ""


class Health(BaseModel):
    """The server at a glance."""

    status: Literal["healthy", "starting", "draining", "failed"]
    version: str
    model: str
    speakers: list[str]


@router.get("/livez")
async def live() -> Alive:
    """The process answers."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not yet, or not any more."}})
async def ready(service: Service, response: Response) -> Readiness:
    """A synthesis has succeeded, and the server is not shutting down."""
    if service.state != "ready":
        response.status_code = 503
    return Readiness(status=service.state, message=service.failure or "")


@router.get("/health", responses={503: {"model": Health, "description": "Not yet, or not any more."}})
def health(service: Service, response: Response) -> Health:
    """The same with version, model and voices."""
    state = service.state
    if state != "ready":
        response.status_code = 503
    return Health(
        status="healthy" if state == "ready" else state,
        version=cosyvoice.__version__,
        model=service.model_name,
        speakers=service.voices.names(),
    )
