"""`cosyvoice train`: trains one network or all of them, and puts the trained ones together as a model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from cosyvoice.cli.extras import needs_extra
from cosyvoice.errors import ConfigError


class Stage(str, Enum):
    """What `cosyvoice train` can be asked for."""

    TOKENIZER = "tokenizer"
    SPEAKER = "speaker"
    LLM = "llm"
    FLOW = "flow"
    VOCODER = "vocoder"
    ALL = "all"
    ASSEMBLE = "assemble"
    PRESETS = "presets"
    UNPACK = "unpack"


def train(
    stage: Annotated[
        Stage, typer.Argument(help="The network; all of them; or assemble a model, make its presets, unpack it.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings to change, such as loop.steps=100 or llm.loop.rate=1e-3.", metavar="[KEY=VALUE]..."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs, one folder a network in it.")] = Path("runs"),
    corpus: Annotated[Path | None, typer.Option(help="Folder of the corpus.")] = None,
    size: Annotated[str, typer.Option(help="Configured size: mini or test.")] = "mini",
    out: Annotated[Path | None, typer.Option(help="assemble, presets: the model directory.")] = None,
    name: Annotated[str, typer.Option(help="assemble: name of the model.")] = "cosyvoice-mini",
    model: Annotated[
        Path | None, typer.Option(help="unpack: the model whose training goes on; by default that of the package.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="assemble: replace the model in --out, keep its voices.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the settings and train nothing.")] = False,
) -> None:
    """Train the networks, or assemble a model from trained ones.

    A training that was stopped goes on where it was when the same command is given again. Each writes its
    settings, losses (as plots and for TensorBoard), pictures and checkpoint to RUNS/STAGE. A model that was assembled
    can be unpacked into such folders, whose trainings then begin with its weights.
    """
    if stage is Stage.ASSEMBLE:
        _assemble(runs, out, name, overwrite, overrides or [])
        return
    if stage is Stage.PRESETS:
        _presets(runs, corpus, out, overrides or [])
        return
    if stage is Stage.UNPACK:
        _unpack(model, runs, overrides or [])
        return
    with needs_extra("train", "training"):
        from cosyvoice.training.configuration import STAGES, load_settings
    stages = list(STAGES) if stage is Stage.ALL else [stage.value]
    settings = load_settings(size, stages, overrides or [])
    if show:
        for one in stages:
            typer.echo(f"{one}: {settings[one].model_dump_json(indent=1)}")
        return
    if corpus is None:
        raise ConfigError("training needs a corpus: give --corpus DIR, made with `cosyvoice corpus DIR`")
    with needs_extra("train", "training"):
        from cosyvoice.training.run import run_stage
        from cosyvoice.training.settings import StageSettings
    _show_progress()
    for one in stages:
        try:
            run_stage(one, cast(StageSettings, settings[one]), corpus, runs)
        except KeyboardInterrupt:
            typer.echo(f"{one} is stopped; give the same command again to go on", err=True)
            raise typer.Exit(130) from None


def _assemble(runs: Path, out: Path | None, name: str, overwrite: bool, overrides: Sequence[str]) -> None:
    if out is None:
        raise ConfigError("assembling needs a place for the model: give --out DIR")
    if overrides:
        raise ConfigError(f"assembling takes no settings: leave {' '.join(overrides)} out")
    with needs_extra("train,export", "assembling a model"):
        from cosyvoice.training.assemble import assemble
    sizes = assemble(runs, out, name, overwrite)
    table = Table("file", "KiB", title=str(out))
    for file, size in sizes.items():
        table.add_row(file, f"{size / 1024:.0f}")
    table.add_row("total", f"{sum(sizes.values()) / 1024:.0f}")
    Console().print(table)


def _presets(runs: Path, corpus: Path | None, out: Path | None, overrides: Sequence[str]) -> None:
    if out is None or corpus is None:
        raise ConfigError("presets need a model and the corpus it was trained on: give --out DIR and --corpus DIR")
    if overrides:
        raise ConfigError(f"presets take no settings: leave {' '.join(overrides)} out")
    with needs_extra("train", "making presets"):
        from cosyvoice.training.presets import make_presets
        from cosyvoice.training.run import read_settings
        from cosyvoice.training.settings import TokenizerSettings
        from cosyvoice.training.tokenizer import load_tokenizer
    recogniser = load_tokenizer(runs / "tokenizer", read_settings(runs, "tokenizer", TokenizerSettings))
    for path in make_presets(out, recogniser, corpus):
        typer.echo(str(path))


def _unpack(model: Path | None, runs: Path, overrides: Sequence[str]) -> None:
    if overrides:
        raise ConfigError(f"unpacking takes no settings: leave {' '.join(overrides)} out")
    with needs_extra("train,export", "unpacking a model"):
        from cosyvoice import DEFAULT_MODEL
        from cosyvoice.training.unpack import unpack
    for folder in unpack(model or DEFAULT_MODEL, runs):
        typer.echo(str(folder))


def _show_progress() -> None:
    """Show what the trainings log."""
    logger = logging.getLogger("cosyvoice")
    if not any(isinstance(handler, RichHandler) for handler in logger.handlers):
        logger.addHandler(RichHandler(show_path=False, show_level=False, markup=False))
    logger.setLevel(logging.INFO)
