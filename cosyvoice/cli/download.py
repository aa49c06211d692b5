"""`cosyvoice download`: a released model from Hugging Face or ModelScope."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def download(
    name: Annotated[
        str,
        typer.Argument(
            help="CosyVoice-300M, CosyVoice-300M-SFT, CosyVoice-300M-Instruct, CosyVoice2-0.5B, Fun-CosyVoice3-0.5B, "
            "or a repository as owner/model."
        ),
    ],
    source: Annotated[str, typer.Option(help="huggingface or modelscope.")] = "huggingface",
    revision: Annotated[
        str | None,
        typer.Option(help="Commit, branch or tag; by default the one that was taken before, or the newest."),
    ] = None,
    dir: Annotated[
        Path | None,
        typer.Option(
            help="Directory of the model; by default pretrained_models/NAME, in $COSYVOICE_HOME where that is set."
        ),
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="A further file of the repository, as llm.rl.pt; may be repeated.")
    ] = None,
) -> None:
    """Download a released model: only what it needs, verified file by file.

    An interrupted download goes on where it stopped when the command is given again. For a model that is there
    already, the files are checked, and those that are damaged replaced.
    """
    from cosyvoice.checkpoint.download import download as fetch

    def tell(file: str, so_far: int, total: int) -> None:
        typer.echo(f"{so_far / max(total, 1):4.0%} of {total / 1e6:.0f} MB, {file}", err=True)

    brought = fetch(name, dir, source, revision, also or (), progress=tell)  # type: ignore[arg-type]
    lock = brought.lock
    what = f"{len(brought.fetched)} of {len(lock.files)} files fetched" if brought.fetched else "complete and intact"
    typer.echo(f"{brought.directory}: {what}, {brought.size / 1e6:.0f} MB, {lock.repository} at {lock.revision[:12]}")
