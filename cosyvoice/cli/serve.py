"""`cosyvoice serve`: the server, until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cosyvoice.cli.extras import needs_extra

if TYPE_CHECKING:
    from cosyvoice.server.run import AddPage
    from cosyvoice.server.settings import Settings


def serve(
    model: Annotated[Path | None, typer.Option(help="Model directory; the model of the package otherwise.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="native, reference (PyTorch), or auto: native where it can.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 otherwise.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8000 otherwise.")] = None,
    api_key: Annotated[
        list[str] | None, typer.Option("--api-key", help="A key that is accepted, or its sha256:… digest; repeatable.")
    ] = None,
    allow_public: Annotated[
        bool, typer.Option("--allow-public", help="Listen on a public address although no key is set.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one operation; all cores otherwise.")] = None,
    voices: Annotated[Path | None, typer.Option(help="Where uploaded voices lie; the user's own otherwise.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Serve the released gRPC service as well, on this port.")
    ] = None,
    wyoming_port: Annotated[
        int | None, typer.Option(help="Serve Home Assistant as well, on this port; 10200 is usual.")
    ] = None,
    wyoming_zeroconf: Annotated[
        str | None,
        typer.Option(help="Announce the Wyoming port on the local network by this name, to Home Assistant."),
    ] = None,
    web: Annotated[
        bool, typer.Option("--web", help="Serve the page under /ui; with keys, one of them is its password.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="File with settings, YAML or JSON.")] = None,
) -> None:
    """Speak over HTTP: OpenAI's speech API, streaming, voices.

    Everything else is set in the file of --config or in COSYVOICE_… environment variables, for example
    COSYVOICE_LIMITS__QUEUE=16.
    """
    with needs_extra("server", "the server"):
        from cosyvoice.server.run import run_server
        from cosyvoice.server.settings import load_settings

    given: dict[str, Any] = {
        "model": model, "backend": backend, "host": host, "port": port, "api_keys": api_key or None,
        "allow_public": allow_public or None, "threads": threads, "voices_directory": voices,
        "grpc_port": grpc_port, "wyoming_port": wyoming_port, "wyoming_zeroconf": wyoming_zeroconf, "web": web or None,
    }  # fmt: skip
    settings = load_settings(config, {name: value for name, value in given.items() if value is not None})
    run_server(settings, page_of(settings) if settings.web else None)


def page_of(settings: Settings) -> AddPage:
    """Adds the page, with the keys of the server as passwords where it has keys."""
    with needs_extra("webui", "the page"):
        from cosyvoice.webui.app import mount
    from cosyvoice.server.auth import login_with_key
    from cosyvoice.server.middleware import PAGE_PATH

    login = login_with_key(settings.api_keys) if settings.api_keys else None
    return lambda app, tts: mount(app, tts, PAGE_PATH, login)
