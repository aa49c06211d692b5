"""`cosyvoice convert`: a model directory in another form, by default a bundle for the native engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cosyvoice.cli.extras import needs_extra

_UNITS = {
    "llm_kl": "nats, KL divergence of the next speech token",
    "flow_mel_error": "relative error of the mel",
    "vocoder_snr": "dB, signal to noise ratio of the samples",
}


def convert(
    model_dir: Annotated[Path, typer.Argument(help="Model directory: released (.pt), safetensors, GGUF, or a bundle.")],
    out: Annotated[Path, typer.Argument(help="Where the result is made; must not hold files.")],
    to: Annotated[
        str,
        typer.Option(help="bundle for the native engine, safetensors, gguf, or pt for the released implementation."),
    ] = "bundle",
    precision: Annotated[
        str | None,
        typer.Option(
            help="bundle: fp32, int8, int4, or mixed (only the language model quantised); gguf: fp32, fp16, q8_0 or "
            "q4_0; safetensors and pt: fp32 or fp16. By default that of the source, and fp16 for gguf.",
            show_default=False,
        ),
    ] = None,
    variant: Annotated[
        str, typer.Option(help="Take these weights of the language model, rl for llm.rl.pt.", show_default=False)
    ] = "",
) -> None:
    """Convert a model, by default for the native engine, which needs no PyTorch.

    The result is complete or not there at all. What a bundle costs in quality is measured against the reference,
    printed, and kept in the bundle. A bundle of GGUF runs the very blocks of its Q8_0 and Q4_0 matrices.
    """
    with needs_extra("export", "converting a model"):
        from cosyvoice.export.formats import convert_model

    from rich.console import Console

    with Console(stderr=True).status("reading") as status:
        form: Any = to
        made = convert_model(model_dir, out, form, precision, status.update, variant=variant)
    what = "" if made.format == "bundle" else f"{made.format}, "
    typer.echo(f"{out}: {what}{made.precision}, {made.size / 1e6:.0f} MB in {made.files} files")
    for name, value in made.quality.items():
        typer.echo(f"  {name}: {value:.3g} ({_UNITS.get(name, '')})")
    if made.rounded:
        typer.echo(f"  note: {made.rounded}")
