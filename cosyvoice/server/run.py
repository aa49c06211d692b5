"""The process: model, service, application and uvicorn, from start to an orderly end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

import cosyvoice
from cosyvoice.engine.pipeline import TTS
from cosyvoice.errors import ConfigError
from cosyvoice.native.speed import stage_options
from cosyvoice.server.app import create_app
from cosyvoice.server.logs import set_up_logging
from cosyvoice.server.memory import bound_allocator
from cosyvoice.server.service import SpeechService
from cosyvoice.server.settings import Settings
from cosyvoice.server.websocket.connection import largest_frame


class Server(uvicorn.Server):
    """Tells the service at once that the process is to end, so that nobody is let in while streams complete."""

    def __init__(self, config: uvicorn.Config, service: SpeechService) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.begin_drain()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn closes WebSockets first of all, so what they speak has to end before.
        await self._service.drain()
        await super().shutdown(sockets)


AddPage = Callable[[FastAPI, TTS], object]
"""Adds the page to the application, under `PAGE_PATH`."""


def run_server(settings: Settings, add_page: AddPage | None = None) -> None:
    """Serve until a signal comes, with the page where `add_page` is given.

    Raises what `cosyvoice.load` raises, and `ConfigError` where the address cannot be listened on.
    """
    bound_allocator()
    set_up_logging(settings)
    listener = _listen(settings.host, settings.port)
    with listener:
        options = stage_options(settings.steps, settings.engine, settings.guided_until)
        tts = cosyvoice.load(settings.model, backend=settings.backend, threads=settings.threads, **options)
        service = SpeechService(tts, settings)
        make_server(settings, service, add_page).run([listener])


def make_server(settings: Settings, service: SpeechService, add_page: AddPage | None = None) -> Server:
    """A uvicorn server around the application of `service`, with the page where `add_page` is given."""
    app = create_app(settings, service)
    if add_page is not None:
        add_page(app, service.tts)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        # The service itself stops what runs longer; a little later, connections are cut.
        timeout_graceful_shutdown=int(settings.limits.drain_seconds) + 5,
        ws_max_size=largest_frame(settings.limits),
    )
    return Server(config, service)


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket; before the model is loaded, so that a port in use is found at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror or error}); choose another port") from None
    return listener
