"""The `cosyvoice` command: registers the commands, and turns errors into one line and an exit code.

Exit codes: 0 success, 1 a check failed, 2 bad input or usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cosyvoice import __version__
from cosyvoice.cli.bench import bench
from cosyvoice.cli.convert import convert
from cosyvoice.cli.corpus import corpus
from cosyvoice.cli.doctor import doctor
from cosyvoice.cli.download import download
from cosyvoice.cli.evaluate import evaluate
from cosyvoice.cli.inspect import inspect
from cosyvoice.cli.parity import app as parity
from cosyvoice.cli.say import say
from cosyvoice.cli.serve import serve
from cosyvoice.cli.train import train
from cosyvoice.cli.voices import voices
from cosyvoice.cli.web import web
from cosyvoice.errors import CosyVoiceError

app = typer.Typer(
    help="Zero-shot text to speech: speak any text in a voice known from a few seconds of audio.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(say)
app.add_typer(voices, name="voices")
app.command()(serve)
app.command()(doctor)
app.command()(web)
app.command()(evaluate)
app.command()(convert)
app.command()(download)
app.command()(inspect)
app.command()(bench)
app.add_typer(parity, name="parity")
app.command()(corpus)
app.command()(train)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Zero-shot text to speech."""


def main() -> None:
    """Entry point of the command."""
    try:
        app()
    except CosyVoiceError as error:
        typer.echo(f"cosyvoice: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
