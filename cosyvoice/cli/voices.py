"""`cosyvoice voices`: the voices of the model and one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosyvoice.errors import VoiceError

if TYPE_CHECKING:
    from cosyvoice.voice.store import VoiceStore

voices = typer.Typer(help="List, add, show and remove voices.", no_args_is_help=True)

ModelOption = Annotated[
    Path | None, typer.Option(help="Model directory; the model of the package otherwise.", show_default=False)
]
NameArgument = Annotated[str, typer.Argument(help="Name of the voice.", show_default=False)]


@voices.command("list")
def list_voices(model: ModelOption = None) -> None:
    """List the voices of the model and one's own."""
    from rich.console import Console
    from rich.table import Table

    store = _store(model)
    names = store.names()
    if not names:
        typer.echo("there is no voice yet; make one with: cosyvoice voices add NAME RECORDING", err=True)
        return
    presets = store.preset_names()
    table = Table("name", "from", "gender", "description", box=None, pad_edge=False)
    for name in names:
        origin = "model" if name in presets else "you"
        try:
            voice = store.get(name)
        except VoiceError as error:
            table.add_row(name, origin, "", f"damaged: {error}")
            continue
        table.add_row(name, origin, voice.gender, voice.description)
    Console().print(table)


@voices.command("show")
def show_voice(name: NameArgument, model: ModelOption = None) -> None:
    """Show what is known of a voice."""
    voice = _store(model).get(name)
    rows = {
        "name": voice.name,
        "gender": voice.gender,
        "description": voice.description,
        "transcript": voice.transcript,
        "consent": voice.consent,
        "provenance": voice.provenance,
        "model": voice.model,
        "reference": f"{len(voice.speech_token)} speech tokens, {len(voice.mel)} mel frames",
        "embedding": f"{len(voice.speaker_embedding)} values",
    }
    width = max(map(len, rows))
    for key, value in rows.items():
        typer.echo(f"{key:<{width}}  {value or '-'}")


@voices.command("add")
def add_voice(
    name: NameArgument,
    recording: Annotated[Path, typer.Argument(help="1 to 30 s of clear speech.", show_default=False)],
    transcript: Annotated[str, typer.Option(help="What the recording says.")] = "",
    gender: Annotated[str, typer.Option(help="For the list.")] = "",
    description: Annotated[str, typer.Option(help="For the list.")] = "",
    consent: Annotated[str, typer.Option(help="Who allowed the use of this voice, and for what.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace one's own voice of this name.")] = False,
    model: ModelOption = None,
) -> None:
    """Make a voice of a recording and keep it."""
    from rich.console import Console

    from cosyvoice.voice.checks import read_reference
    from cosyvoice.voice.store import check_name

    check_name(name)
    store = _store(model)
    if name in store.names() and not (force and name in store.own_names()):
        raise VoiceError(f"there is a voice {name!r} already; choose another name, or use --force on your own")
    read_reference(recording)

    import cosyvoice

    with Console(stderr=True).status("encoding the recording"):
        voice = cosyvoice.load(model).clone(
            recording, transcript, name=name, gender=gender, description=description, consent=consent
        )
    path = store.add(voice, overwrite=force)
    typer.echo(f"added {name!r}: {path}")


@voices.command("remove")
def remove_voice(name: NameArgument, model: ModelOption = None) -> None:
    """Remove one of one's own voices."""
    _store(model).remove(name)
    typer.echo(f"removed {name!r}")


def _store(model: Path | None) -> VoiceStore:
    """The store, without loading any network."""
    import cosyvoice
    from cosyvoice.voice.store import VoiceStore

    return VoiceStore(presets=(model or cosyvoice.DEFAULT_MODEL) / "voices")
