"""`cosyvoice web`: the page in a browser, on this machine unless told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosyvoice.cli.extras import needs_extra
from cosyvoice.errors import ConfigError
from cosyvoice.server.addresses import is_loopback


def web(
    model: Annotated[Path | None, typer.Option(help="Model directory; the model of the package otherwise.")] = None,
    backend: Annotated[str, typer.Option(help="native, reference (PyTorch), or auto: native where it can.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; all cores otherwise.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    login: Annotated[
        str | None,
        typer.Option(envvar="COSYVOICE_WEB_LOGIN", help="NAME:PASSWORD that the page asks for.", show_envvar=True),
    ] = None,
    insecure: Annotated[bool, typer.Option(help="Let everybody in who can reach the address.")] = False,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Open the page: speak, clone, convert, read long texts, manage voices."""
    credentials = parse_login(login)
    if credentials is None and not insecure and not is_loopback(host):
        raise ConfigError(
            f"{host} can be reached from outside, and the page would let everybody in; "
            "set --login NAME:PASSWORD, or --insecure where the network is your own"
        )
    with needs_extra("webui", "the page"):
        import uvicorn
        from fastapi import FastAPI

        from cosyvoice.webui.app import mount

    import cosyvoice

    tts = cosyvoice.load(model, backend=backend, threads=threads)  # type: ignore[arg-type]
    app = mount(FastAPI(openapi_url=None), tts, path="", login=credentials)
    address = f"http://{'localhost' if is_loopback(host) else host}:{port}/"
    typer.echo(f"the page is at {address} (Ctrl+C ends it)")
    if browser and is_loopback(host):
        typer.launch(address)
    uvicorn.run(app, host=host, port=port, log_level="warning")


def parse_login(login: str | None) -> tuple[str, str] | None:
    """Name and password of NAME:PASSWORD. Raises `ConfigError` where one is missing."""
    if login is None:
        return None
    name, _, password = login.partition(":")
    if not name or not password:
        raise ConfigError("the login has no name or no password; write it as NAME:PASSWORD")
    return name, password
