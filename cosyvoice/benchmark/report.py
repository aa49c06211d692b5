"""The results as tables: rows for the terminal and for Markdown are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cosyvoice.benchmark.harness import Spread
from cosyvoice.benchmark.results import Results

QUALITY_TITLES = {
    "llm_kl": "LLM, KL divergence (nats)",
    "flow_mel_error": "flow, relative mel error",
    "vocoder_snr": "vocoder, SNR (dB)",
}


@dataclass(frozen=True)
class Section:
    """One table."""

    title: str
    heading: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def sections(results: Results) -> list[Section]:
    """The tables of `results` that have rows."""
    made = [_speed(results), _streams(results), _memory(results), _concurrency(results), _quality(results)]
    return [section for section in made if section.rows]


def _speed(results: Results) -> Section:
    baseline = results.settings.baseline
    heading = ("measure", "unit", "engine", "median", "min", "max", f"× {baseline}", "× min", "× max")
    rows = []
    for measurement in results.measurements.values():
        quantity = measurement.quantity
        for engine, spread in measurement.values.items():
            ratio = measurement.ratios.get(engine)
            ratios = _ratios(ratio) if ratio else ("1" if engine == baseline else "–", "", "")
            rows.append((quantity.title, quantity.unit, engine, *map(number, _middle_first(spread)), *ratios))
    return Section("Speed", heading, rows)


def _streams(results: Results) -> Section:
    heading = ("engine", "chunks", "second chunk, ms", "last chunk, ms", "last / second")
    rows = [
        (engine, str(len(stream.cost)), number(1000 * stream.cost[1]), number(1000 * stream.cost[-1]),
         number(stream.growth))
        for engine, stream in results.streams.items()
    ]  # fmt: skip
    return Section(f"Chunks of a stream of {results.settings.stream_seconds:g} s (flow and vocoder)", heading, rows)


def _memory(results: Results) -> Section:
    heading = ("engine", "loaded, MB", "peak of an utterance, MB", "peak of the stream, MB", "growth over chunks, MB")
    rows = [
        (engine, *(_megabytes(value) for value in (found.loaded, found.peak, found.stream_peak, found.growth)))
        for engine, found in results.memory.items()
    ]
    return Section("Memory of a process with one engine", heading, rows)


def _concurrency(results: Results) -> Section:
    heading = ("engine", "one at a time, tokens/s", "together, tokens/s", "gain", "gain min", "gain max", "difference")
    rows = [
        (engine, number(found.one_at_a_time.median), number(found.together.median), *_ratios(found.gain),
         f"{found.difference:.1e}")
        for engine, found in results.concurrency.items()
    ]  # fmt: skip
    return Section(f"LLM decoding for {results.settings.requests} requests", heading, rows)


def _quality(results: Results) -> Section:
    names = list(dict.fromkeys(name for measured in results.quality.values() for name in measured))
    heading = ("engine", *(QUALITY_TITLES.get(name, name) for name in names))
    rows = [
        (engine, *(f"{measured[name]:.3g}" if name in measured else "–" for name in names))
        for engine, measured in results.quality.items()
    ]
    return Section("Distance from the reference", heading, rows)


def description(results: Results) -> list[tuple[str, str]]:
    """What the numbers belong to."""
    machine, settings, (before, after) = results.machine, results.settings, results.load_average
    weights = ", random weights" if settings.random_weights else ""
    return [
        ("model", f"{settings.model}{weights}"),
        ("machine", f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB, {machine.system}"),
        ("instruction sets", ", ".join(machine.instruction_sets) or "unknown"),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
        ("threads", str(settings.threads)),
        ("rounds", str(settings.rounds)),
        ("utterance", f"{settings.seconds:g} s after a prompt of {settings.prompt_seconds:g} s"),
        ("load average", f"{_plain(before)} before, {_plain(after)} after"),
    ]


def markdown(results: Results) -> str:
    """A page."""
    lines = [f"# Benchmark of {results.settings.model}", ""]
    lines += [f"* {name}: {text}" for name, text in description(results)]
    lines += [f"* note: {note}" for note in results.notes]
    for section in sections(results):
        lines += ["", f"## {section.title}", "", _line(section.heading), _line(["---"] * len(section.heading))]
        lines += [_line(row) for row in section.rows]
    lines += ["", f"`×` is the time of {results.settings.baseline} over that of the engine, formed round by round."]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def print_results(results: Results, console: Console) -> None:
    """The tables and notes on `console`."""
    for name, text in description(results):
        console.print(f"{name}: {escape(text)}", highlight=False, soft_wrap=True)
    for section in sections(results):
        table = Table(*section.heading, title=section.title, box=None, pad_edge=False, title_justify="left")
        for row in section.rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print()
        console.print(table)
    for note in results.notes:
        console.print(f"note: {escape(note)}", highlight=False, soft_wrap=True)


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _middle_first(spread: Spread) -> tuple[float, float, float]:
    return spread.median, spread.min, spread.max


def _ratios(spread: Spread) -> tuple[str, str, str]:
    median, least, most = (f"{value:.2f}" for value in _middle_first(spread))
    return median, least, most


def _megabytes(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _plain(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"
