"""`cosyvoice parity DIR`: the table of recorded tensors and how far ours are from them; `parity record` makes a DIR.

The checks need PyTorch, which a plain installation does not bring; they are imported when the command runs.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from typer.core import TyperGroup

from cosyvoice.audio.io import write_bytes_atomically
from cosyvoice.cli.extras import needs_extra
from cosyvoice.cli.output import check_place

if TYPE_CHECKING:
    from cosyvoice.parity.golden import Row

_PIPE_WIDTH = 240
"""Columns of the table where no terminal limits it: names of tensors must not be cut."""


class _CheckByDefault(TyperGroup):
    """`parity DIR` is `parity check DIR`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["check", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_CheckByDefault,
    no_args_is_help=True,
    help="Compare every stage with recorded tensors: `cosyvoice parity DIR`; or record those of a model.",
)


@app.command("check")
def parity(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with golden/, wav/ and vN/model/.", show_default=False)
    ],
    generation: Annotated[
        str | None, typer.Option(help="Check this generation only, for example v3.", show_default=False)
    ] = None,
    backend: Annotated[
        str, typer.Option(help="Engine to check: reference (PyTorch), or native on a conversion of the model.")
    ] = "reference",
    precision: Annotated[
        str,
        typer.Option(help="Of the conversion for the native engine: fp32, int8, int4 or mixed."),
    ] = "fp32",
    every_row: Annotated[
        bool, typer.Option("--all", help="Print every row, not only the worst of each stage and failures.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write all rows to this file.", show_default=False)
    ] = None,
) -> None:
    """Compare every stage with recorded tensors of the released implementation, or of the reference.

    Exits with 0 where all are within tolerance, 1 where one is not, 2 where the folder cannot be checked. Quantised
    weights are not held to the tolerance: the table tells how far they are off, and only a check that stops is a
    failure.
    """
    rows, left_out = _run(folder, generation, backend, precision, json_file, Console(stderr=True))
    _print(rows, every_row, left_out, precision == "fp32")
    from cosyvoice.parity.golden import STOPPED

    judged = rows if precision == "fp32" else [row for row in rows if row.tensor == STOPPED]
    if not all(row.passed for row in judged):
        raise typer.Exit(1)


@app.command()
def record(
    model_dir: Annotated[Path, typer.Argument(help="Model directory in the released layout.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to record into; may hold other generations.", show_default=False)],
    prompt: Annotated[
        Path | None, typer.Option(help="Reference recording; a generated tone otherwise.", show_default=False)
    ] = None,
    transcript: Annotated[str, typer.Option(help="What the recording of --prompt says.", show_default=False)] = "",
) -> None:
    """Record the intermediate tensors of every stage of the reference on a model.

    `cosyvoice parity OUT --backend native` then tells whether the native engine computes the same on it.
    """
    with needs_extra("train", "recording"):
        from cosyvoice.parity.record import record as record_model

    with Console(stderr=True).status("reading") as status:
        made = record_model(model_dir, out, prompt, transcript, progress=status.update)
    for topic, count in made.items():
        typer.echo(f"{topic}: {count} tensors")
    typer.echo(f"check them with: cosyvoice parity {out} --backend native")


def _run(
    root: Path, generation: str | None, backend: str, precision: str, json_file: Path | None, notes: Console
) -> tuple[list[Row], dict[str, int]]:
    """All rows, and how many recorded tensors of each topic the backend has no counterpart of."""
    if json_file is not None:
        check_place(json_file)
    with needs_extra("train", "the parity check"):
        from cosyvoice.parity import run as checks
        from cosyvoice.parity.golden import ParityFolder
        from cosyvoice.parity.native import left_out
    checks.check_backend(backend, precision)
    chosen: Any = precision
    folder = ParityFolder(root)
    if generation is not None:
        generations = [generation]
    else:
        recorded = checks.recorded_generations(folder)
        generations = [name for name in recorded if name in checks.SUPPORTED]
        skipped = [name for name in recorded if name not in checks.SUPPORTED]
        if skipped:
            notes.print(f"note: skipped {', '.join(skipped)}: not supported yet", soft_wrap=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        rows = checks.run(folder, generations, lambda stage: progress.update(task, description=stage), backend, chosen)
    if json_file is not None:
        content = json.dumps([_plain(row) for row in rows], ensure_ascii=False, indent=1, allow_nan=False)
        write_bytes_atomically(json_file, content.encode())
    return rows, left_out(folder, generations) if backend == "native" else {}


def _plain(row: Row) -> dict[str, Any]:
    """A row as JSON; an infinite error, which JSON cannot hold, is null."""
    return {
        "stage": row.stage,
        "tensor": row.tensor,
        "max_error": row.error if math.isfinite(row.error) else None,
        "tolerance": row.tolerance,
        "passed": row.passed,
        "note": row.note,
    }


def _print(rows: Sequence[Row], every_row: bool, left_out: Mapping[str, int], judged: bool) -> None:
    from cosyvoice.parity.golden import STOPPED

    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    table = Table("stage", "tensor", "max error", "tolerance", "verdict", "note", box=None, pad_edge=False)
    for row in rows if every_row else _summary(rows, judged):
        error = f"{row.error:.1e}" if row.error else "0"
        tolerance = f"{row.tolerance:.0e}" if row.tolerance else "exact"
        failure = "[red]FAIL[/red]" if judged or row.tensor == STOPPED else "beyond"
        verdict = "[green]ok[/green]" if row.passed else failure
        table.add_row(row.stage, escape(row.tensor), error, tolerance, verdict, escape(row.note))
    console.print(table)
    total, passed = (Counter(row.stage for row in chosen) for chosen in (rows, filter(_passed, rows)))
    console.print()
    for stage, count in total.items():
        console.print(f"{stage}: {passed[stage]} of {count} within tolerance", highlight=False)
    if left_out:
        counts = ", ".join(f"{topic} {count}" for topic, count in left_out.items())
        console.print(f"left out, as only the reference has them: {counts}", highlight=False)
    failed = len(rows) - sum(passed.values())
    outcome = "failed" if judged else "beyond it, as quantised weights may be"
    console.print(f"all: {len(rows) - failed} of {len(rows)} within tolerance, {failed} {outcome}", highlight=False)


def _passed(row: Row) -> bool:
    return row.passed


def _summary(rows: Sequence[Row], judged: bool) -> list[Row]:
    """Of each stage the worst row, then its other failures where the tolerance is to be met."""
    from cosyvoice.parity.golden import STOPPED, worst

    chosen: list[Row] = []
    for stage in dict.fromkeys(row.stage for row in rows):
        of_stage = [row for row in rows if row.stage == stage]
        first = worst(of_stage)
        failures = [row for row in of_stage if not row.passed and (judged or row.tensor == STOPPED)]
        chosen += [first, *(row for row in failures if row is not first)]
    return chosen
