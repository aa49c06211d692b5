"""`cosyvoice corpus`: builds the synthetic training corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from cosyvoice.cli.extras import needs_extra


def corpus(
    out: Annotated[Path, typer.Argument(help="Folder of the corpus.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings to change, such as speakers=20.", metavar="[KEY=VALUE]..."),
    ] = None,
    size: Annotated[str, typer.Option(help="Configured size: mini or test.")] = "mini",
    workers: Annotated[int, typer.Option(min=1, help="Processes that speak.")] = 2,
) -> None:
    """Build the training corpus: sentences spoken by flite and festival, in many voices.

    Free text and speech only, all from Debian packages. A build that was stopped goes on where it was.
    """
    with needs_extra("train", "building a corpus"):
        from cosyvoice.evaluation.sentences import read_sentences
        from cosyvoice.training.configuration import load_settings
        from cosyvoice.training.corpus.build import build_corpus
        from cosyvoice.training.settings import CorpusSettings

    settings = cast(CorpusSettings, load_settings(size, ["corpus"], overrides or [])["corpus"])
    hours = build_corpus(out, settings, workers, read_sentences())
    typer.echo(f"{out}: {hours:.2f} hours of speech added")
