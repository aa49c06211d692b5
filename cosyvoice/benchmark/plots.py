"""The results as pictures: ratios with their spread, the cost of a chunk over its number, memory."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cosyvoice.benchmark.results import Measurement, Results

_DPI = 120


def write_plots(results: Results, folder: Path) -> list[Path]:
    """Write those pictures for which something was measured; returns their paths."""
    written = []
    compared = {name: measured for name, measured in results.measurements.items() if measured.ratios}
    if compared:
        written.append(_save(plot_ratios(compared, results.settings.baseline), folder / "ratios.png"))
    if results.streams:
        written.append(_save(plot_chunks(results), folder / "chunks.png"))
    if any(found.peak is not None for found in results.memory.values()):
        written.append(_save(plot_memory(results), folder / "memory.png"))
    return written


def plot_ratios(measurements: dict[str, Measurement], baseline: str) -> Figure:
    """Times faster than the baseline: a group of bars for each quantity, the median with least and greatest."""
    engines = list(dict.fromkeys(engine for measured in measurements.values() for engine in measured.ratios))
    figure = Figure(figsize=(1.5 + 1.6 * len(measurements), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(engines)
    for index, engine in enumerate(engines):
        found = [(place, m.ratios[engine]) for place, m in enumerate(measurements.values()) if engine in m.ratios]
        places = [place + (index - (len(engines) - 1) / 2) * width for place, _ in found]
        medians = [spread.median for _, spread in found]
        errors = [[s.median - s.min for _, s in found], [s.max - s.median for _, s in found]]
        bars = axes.bar(places, medians, width, yerr=errors, capsize=3, label=engine)
        axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(measurements)), [m.quantity.title for m in measurements.values()], fontsize=8)
    axes.set_ylabel(f"times faster than {baseline}")
    axes.legend(fontsize=8)
    return figure


def plot_chunks(results: Results) -> Figure:
    """Seconds of each chunk of a long stream, least of all rounds, with all rounds in the background."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for index, (engine, stream) in enumerate(results.streams.items()):
        numbers = range(1, len(stream.cost) + 1)
        for times in stream.rounds:
            axes.plot(numbers, [1000 * s for s in times], ".", color=f"C{index}", alpha=0.25, markersize=3)
        axes.plot(numbers, [1000 * s for s in stream.cost], color=f"C{index}", label=f"{engine} ×{stream.growth:.2f}")
    # One slow chunk of one round must not flatten everything else.
    axes.set_ylim(0, 1500 * max(max(stream.cost) for stream in results.streams.values()))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("chunk of one second")
    axes.set_ylabel("flow and vocoder (ms)")
    axes.legend(fontsize=8, title="last / second chunk", title_fontsize=8)
    return figure


def plot_memory(results: Results) -> Figure:
    """Peak memory of each engine, and memory after each chunk of a long stream."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    peaks, chunks = figure.subplots(1, 2)
    known = {engine: found.peak for engine, found in results.memory.items() if found.peak is not None}
    bars = peaks.bar(list(known), list(known.values()), color=[f"C{index}" for index in range(len(known))])
    peaks.bar_label(bars, fmt="%.0f", fontsize=8)
    peaks.set_ylabel("peak of an utterance (MB)")
    for index, (engine, found) in enumerate(results.memory.items()):
        values = [value for value in found.chunks if value is not None]
        if values:
            chunks.plot(range(1, len(values) + 1), values, color=f"C{index}", label=engine)
    chunks.set_ylim(0, 1.25 * chunks.get_ylim()[1])
    chunks.xaxis.set_major_locator(MaxNLocator(integer=True))
    chunks.set_xlabel("chunk of one second")
    chunks.set_ylabel("resident memory (MB)")
    if chunks.lines:
        chunks.legend(fontsize=8)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=_DPI)
    return path
