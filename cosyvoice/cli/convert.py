"""`cosyvoice convert`: a model directory becomes a bundle for the native engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from cosyvoice.cli.extras import needs_extra
from cosyvoice.config.bundle import Precision
from cosyvoice.errors import ConfigError

_UNITS = {
    "llm_kl": "nats, KL divergence of the next speech token",
    "flow_mel_error": "relative error of the mel",
    "vocoder_snr": "dB, signal to noise ratio of the samples",
}


def convert(
    model_dir: Annotated[Path, typer.Argument(help="Released model directory, or one of our own.")],
    out: Annotated[Path, typer.Argument(help="Where the bundle is made; must not hold files.")],
    precision: Annotated[
        str, typer.Option(help="fp32, int8, int4, or mixed (only the language model quantised).")
    ] = "fp32",
) -> None:
    """Convert a model for the native engine, which needs no PyTorch.

    The bundle is complete or not there at all. What the conversion costs in quality is measured against the
    reference, printed, and kept in the bundle.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"no precision {precision!r}; choose one of {', '.join(get_args(Precision))}")
    with needs_extra("export", "converting a model"):
        from cosyvoice.export.bundle import convert as make_bundle

    from rich.console import Console

    with Console(stderr=True).status("reading") as status:
        record = make_bundle(model_dir, out, precision, progress=status.update)  # type: ignore[arg-type]
    megabytes = sum(record.files.values()) / 1e6
    typer.echo(f"{out}: {precision}, {megabytes:.0f} MB in {len(record.files)} files")
    for name, value in record.quality.items():
        typer.echo(f"  {name}: {value:.3g} ({_UNITS.get(name, '')})")
