"""`cosyvoice inspect`: what a file or folder is, what it holds, and what does not belong to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cosyvoice.checkpoint.inspection import FileReport
    from cosyvoice.checkpoint.model_inspection import Expected, Inspection

_SHOWN_KEYS = 20
_SHOWN_CHARACTERS = 80


def inspect(
    path: Annotated[Path, typer.Argument(help="Model directory, .pt, .safetensors, .gguf or .onnx file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all names.")] = False,
) -> None:
    """Tell what a file or folder is: generation, tensors, precision, missing and foreign keys.

    Only headers are read, so it is safe and quick for files of any size and origin. Exits with 1 where something is
    missing or does not fit.
    """
    from cosyvoice.checkpoint.model_inspection import inspect_path

    expected = _expected()
    report = inspect_path(path, expected)
    if as_json:
        typer.echo(json.dumps({**report.to_dict(), "compared": expected is not None}, ensure_ascii=False, indent=1))
    else:
        for line in _lines(report, expected is not None):
            typer.echo(line)
    if report.problems:
        raise typer.Exit(1)


def _expected() -> Expected | None:
    """What lists the names of a configuration's weights, which needs the networks and so PyTorch."""
    try:
        from cosyvoice.reference.networks import expected_shapes
    except ImportError:
        return None
    return expected_shapes


def _lines(report: Inspection, compared: bool) -> list[str]:
    about = [report.name, report.generation and f"generation {report.generation}", report.precision]
    lines = [f"{report.path}: {', '.join([report.kind, *(word for word in about if word)])}"]
    for file in report.files:
        lines += _file_lines(file)
    lines += [f"problem: {problem}" for problem in report.problems]
    if not compared:
        lines.append("names of weights were not compared, which needs PyTorch: pip install 'cosyvoice[export]'")
    return lines


def _file_lines(file: FileReport) -> list[str]:
    words = [file.kind]
    if file.network:
        words.append(f"{file.network} of {file.generation}")
    if file.tensors:
        words.append(f"{file.tensors} tensors, {file.parameters / 1e6:.2f} M numbers, {file.precision}")
    lines = [f"  {file.name}: {', '.join(words)}, {file.size / 1e6:.2f} MB"]
    lines += [f"    {key}: {_shortened(value)}" for key, value in file.notes.items()]
    if file.mismatch is not None:
        for what, names in (
            ("missing", file.mismatch.missing),
            ("foreign", file.mismatch.foreign),
            ("other shape", file.mismatch.misshapen),
        ):
            lines += [f"    {what}: {name}" for name in names[:_SHOWN_KEYS]]
            if len(names) > _SHOWN_KEYS:
                lines.append(f"    {what}: {len(names) - _SHOWN_KEYS} more")
    return lines


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 3]}..."
