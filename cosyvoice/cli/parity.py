"""`cosyvoice parity`: the table of recorded tensors and how far ours are from them.

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

from cosyvoice.audio.io import write_bytes_atomically
from cosyvoice.cli.extras import needs_extra
from cosyvoice.cli.output import check_place

if TYPE_CHECKING:
    from cosyvoice.parity.golden import Row

_PIPE_WIDTH = 240
"""Columns of the table where no terminal limits it: names of tensors must not be cut."""


def parity(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with golden/, wav/ and vN/model/.", show_default=False)
    ],
    generation: Annotated[
        str | None, typer.Option(help="Check this generation only, for example v3.", show_default=False)
    ] = None,
    backend: Annotated[
        str, typer.Option(help="Engine to check: reference (PyTorch), or native on a conversion in single precision.")
    ] = "reference",
    every_row: Annotated[
        bool, typer.Option("--all", help="Print every row, not only the worst of each stage and failures.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write all rows to this file.", show_default=False)
    ] = None,
) -> None:
    """Compare every stage with recorded tensors of the released implementation.

    Exits with 0 where all are within tolerance, 1 where one is not, 2 where the folder cannot be checked.
    """
    rows, left_out = _run(folder, generation, backend, json_file, Console(stderr=True))
    _print(rows, every_row, left_out)
    if not all(row.passed for row in rows):
        raise typer.Exit(1)


def _run(
    root: Path, generation: str | None, backend: str, json_file: Path | None, notes: Console
) -> tuple[list[Row], dict[str, int]]:
    """All rows, and how many recorded tensors of each topic the backend has no counterpart of."""
    if json_file is not None:
        check_place(json_file)
    with needs_extra("train", "the parity check"):
        from cosyvoice.parity import run as checks
        from cosyvoice.parity.golden import ParityFolder
        from cosyvoice.parity.native import left_out
    checks.check_backend(backend)
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
        rows = checks.run(folder, generations, lambda stage: progress.update(task, description=stage), backend)
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


def _print(rows: Sequence[Row], every_row: bool, left_out: Mapping[str, int]) -> None:
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    table = Table("stage", "tensor", "max error", "tolerance", "verdict", "note", box=None, pad_edge=False)
    for row in rows if every_row else _summary(rows):
        error = f"{row.error:.1e}" if row.error else "0"
        tolerance = f"{row.tolerance:.0e}" if row.tolerance else "exact"
        verdict = "[green]ok[/green]" if row.passed else "[red]FAIL[/red]"
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
    console.print(f"all: {len(rows) - failed} of {len(rows)} within tolerance, {failed} failed", highlight=False)


def _passed(row: Row) -> bool:
    return row.passed


def _summary(rows: Sequence[Row]) -> list[Row]:
    """Of each stage the worst row, then its other failures."""
    from cosyvoice.parity.golden import worst

    chosen: list[Row] = []
    for stage in dict.fromkeys(row.stage for row in rows):
        of_stage = [row for row in rows if row.stage == stage]
        first = worst(of_stage)
        chosen += [first, *(row for row in of_stage if not row.passed and row is not first)]
    return chosen
