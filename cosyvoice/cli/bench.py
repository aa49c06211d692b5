"""`cosyvoice bench`: how fast and how large a model is, each precision against the reference."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cosyvoice.audio.io import write_bytes_atomically
from cosyvoice.cli.extras import needs_extra
from cosyvoice.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from cosyvoice.benchmark.results import Results
    from cosyvoice.benchmark.run import Plan

_PIPE_WIDTH = 160
"""Columns of the tables where no terminal limits them."""


def bench(
    model: Annotated[
        Path | None, typer.Argument(help="Model directory; the model of the package otherwise.", show_default=False)
    ] = None,
    random: Annotated[
        str | None,
        typer.Option(
            help="Measure a model with random weights instead: 300m (CosyVoice-300M), v2-0.5b (CosyVoice2-0.5B), 0.5b "
            "(Fun-CosyVoice3-0.5B), 0.5b-shallow, mini or tiny.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="fp32, int8, int4 or mixed; repeatable. That of the bundle, or fp32, otherwise.", show_default=False
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="What runs flow and vocoder: onnxruntime, openvino (needs cosyvoice[openvino]) or openvino-bf16; "
            "repeatable.",
            show_default="onnxruntime",
        ),
    ] = None,
    steps: Annotated[
        list[int] | None,
        typer.Option(
            help="Steps of the flow in the native engine; repeatable.", show_default="those of the model", min=1
        ),
    ] = None,
    guided_until: Annotated[
        float,
        typer.Option(help="Flow time up to which the native engine uses guidance.", min=0.0, max=1.0),
    ] = 1.0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for bench.json, bench.md and plots.", show_default=False),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of one operation; all cores otherwise.")] = None,
    rounds: Annotated[int, typer.Option(help="How often each engine is measured.")] = 5,
    stages: Annotated[
        str | None,
        typer.Option(
            help="Some of llm,flow,vocoder,whole,streaming,concurrent,memory,cold,quality.",
            show_default="all",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Audio of an utterance.")] = 10.0,
    stream_seconds: Annotated[float, typer.Option(help="Audio of the long stream.")] = 60.0,
    requests: Annotated[int, typer.Option(help="Requests that decode at the same time.")] = 8,
    models: Annotated[
        Path | None,
        typer.Option(help="Folder in which converted models are kept for the next run.", show_default=False),
    ] = None,
) -> None:
    """Measure the stages of a model and the whole of it, the engines in turns, as ratios with their spread.

    The reference in PyTorch is measured along where it is installed and the weights are not quantised.
    """
    from cosyvoice.benchmark.run import Plan, parse_stages
    from cosyvoice.native.runtime import Runtime

    if model is not None and random is not None:
        raise ConfigError("a model directory and --random cannot be measured at once; give one of them")
    chosen = {} if stages is None else {"stages": parse_stages(stages)}
    plan = Plan(
        threads=Runtime(threads).threads, rounds=rounds, seconds=seconds, stream_seconds=stream_seconds,
        requests=requests, **chosen,
    )  # fmt: skip
    for folder in (out, models):
        if folder is not None:
            _make_folder(folder)
    notes = Console(stderr=True)
    with _folder_for_models(models, out) as kept, notes.status("starting") as status:
        results = _measure(
            model, random, precision or [], engine or [], steps or [None], guided_until, plan, kept,
            _progress(notes, status.update),
        )  # fmt: skip
    if out is not None:
        _write(results, out, notes)
    from cosyvoice.benchmark.report import print_results

    console = Console()
    print_results(results, console if console.is_terminal else Console(width=_PIPE_WIDTH))


def _measure(
    model: Path | None,
    random: str | None,
    precision: list[str],
    engine: list[str],
    steps: Sequence[int | None],
    guided_until: float,
    plan: Plan,
    folder: Path,
    say: Callable[[str], None],
) -> Results:
    import cosyvoice
    from cosyvoice.benchmark.contenders import check_engines, check_precisions, find_field
    from cosyvoice.benchmark.run import Bench
    from cosyvoice.config.bundle import PRECISIONS

    engines = check_engines(engine)
    if random is not None:
        unknown = [name for name in precision if name not in PRECISIONS]
        if unknown:
            raise ConfigError(f"no precision {unknown[0]!r}; choose from {', '.join(PRECISIONS)}")
        with needs_extra("export", "making a random model"):
            from cosyvoice.benchmark.random_model import geometry, write_random_model
        model = write_random_model(random, folder / geometry(random).name, say)
    source = cosyvoice.DEFAULT_MODEL if model is None else model.expanduser()
    wanted = check_precisions(source, precision)
    with needs_extra("export", "converting a model to other precisions"):
        field = find_field(source, wanted, folder, say, engines, steps, guided_until)
    return Bench(field, plan, source.resolve().name, random is not None, say).run()


def _write(results: Results, out: Path, notes: Console) -> None:
    from cosyvoice.benchmark.report import markdown

    write_bytes_atomically(out / "bench.json", (results.model_dump_json(indent=1) + "\n").encode())
    write_bytes_atomically(out / "bench.md", markdown(results).encode())
    if find_spec("matplotlib") is None:
        notes.print("note: no plots without matplotlib: pip install 'cosyvoice\\[plot]'")
        return
    from cosyvoice.benchmark.plots import write_plots

    write_plots(results, out)


def _progress(notes: Console, update: Callable[[str], None]) -> Callable[[str], None]:
    """Shows on a terminal what is done now; elsewhere nothing is shown but what takes long as a line."""
    if notes.is_terminal:
        return update
    return lambda text: notes.print(text, highlight=False, soft_wrap=True)


@contextmanager
def _folder_for_models(models: Path | None, out: Path | None) -> Iterator[Path]:
    """`models`, or a folder that is removed again; beside the results, since temporary folders may be in memory."""
    if models is not None:
        yield models
        return
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=out) as temporary:
        yield Path(temporary)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made ({error.strerror}); choose another folder") from None
