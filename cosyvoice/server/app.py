"""The application: routes, middleware and error answers around one service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Match

import cosyvoice
from cosyvoice.errors import CosyVoiceError
from cosyvoice.server.errors import INVALID, Problem, problem_of
from cosyvoice.server.listeners import listening
from cosyvoice.server.middleware import Authentication, BodyLimit, RequestContext
from cosyvoice.server.routes import health, metrics, models, native, openai, released, voices, websocket
from cosyvoice.server.service import SpeechService
from cosyvoice.server.settings import Settings

PUBLIC_ROUTERS = (health.router,)
ROUTERS = (openai.router, models.router, voices.router, native.router, released.router, metrics.router)
_TEXT_ROOM = 1 << 18
"""Bytes of a body beside a recording."""


def create_app(settings: Settings, service: SpeechService) -> FastAPI:
    """The application of `service`; it warms the service up when it starts and drains it when it stops."""
    app = FastAPI(
        title="CosyVoice",
        version=cosyvoice.__version__,
        summary="Text to speech with OpenAI's API, streaming, and voices of one's own.",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.service = service
    keys = [Depends(HTTPBearer(auto_error=False))] if settings.api_keys else []
    for router in PUBLIC_ROUTERS:
        app.include_router(router)
    for router in ROUTERS:
        app.include_router(router, dependencies=keys)
    app.include_router(websocket.router)
    _answer_errors(app)
    app.add_middleware(BodyLimit, most=settings.limits.upload_bytes * 4 // 3 + _TEXT_ROOM)
    app.add_middleware(Authentication, keys=settings.api_keys)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(RequestContext, metrics=service.metrics)
    _describe(app, settings)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: SpeechService = app.state.service
    async with listening(service):
        # In the background: the process is alive meanwhile, though not ready.
        tasks = [asyncio.create_task(service.warm_up()), asyncio.create_task(service.tidy_up())]
        try:
            yield
        finally:
            await service.drain()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _answer_errors(app: FastAPI) -> None:
    def answer(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse(problem.body(), problem.status, {**problem.headers(), **(headers or {})})

    @app.exception_handler(CosyVoiceError)
    async def _of_request(_: Request, error: CosyVoiceError) -> JSONResponse:
        return answer(problem_of(error))

    @app.exception_handler(RequestValidationError)
    async def _of_body(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(_malformed(error))

    @app.exception_handler(HTTPException)
    async def _of_route(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(request))
        return answer(Problem(error.status_code, str(error.detail), INVALID, code="http_error"), headers)


def _methods(request: Request) -> list[str]:
    """All methods of the path; the framework names those of the first route alone."""
    methods: set[str] = set()
    for router in (*PUBLIC_ROUTERS, *ROUTERS):
        for route in router.routes:
            if route.matches(request.scope)[0] is not Match.NONE:
                methods |= getattr(route, "methods", None) or set()
    return sorted(methods)


def _malformed(error: RequestValidationError) -> Problem:
    """The first thing that is wrong with a body, a form or a path, without what was sent."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "path", "query")]
    # A union of types names the type that was tried behind the field.
    field = ".".join(place) or None
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    message = f"{field or 'the body'}: {first['msg']}"
    return Problem(400, message, INVALID, place[0] if place else None, code)


def _describe(app: FastAPI, settings: Settings) -> None:
    """The OpenAPI document with the limits that the settings give."""
    generate = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = generate()["components"]["schemas"]
            for name, field in (("SpeechBody", "input"), ("BatchItem", "input"), ("SynthesizeBody", "text")):
                schemas[name]["properties"][field]["maxLength"] = settings.limits.text_characters
            schemas["BatchBody"]["properties"]["items"]["maxItems"] = settings.limits.batch_items
        return app.openapi_schema or {}

    app.openapi = document  # type: ignore[method-assign]
