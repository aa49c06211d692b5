"""The measurements as a table and pictures: Markdown for documents, rich for the terminal, PNG for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from cosyvoice.errors import MissingDependencyError
from cosyvoice.evaluation.results import LENGTH_RATIO_RANGE, Summary
from cosyvoice.evaluation.similarity import centroid, similarity_matrix

_DPI = 120
_EXPLANATION = (
    "WER mean is the mean of the utterances' word error rates, WER corpus all errors over all words. A failure "
    "counts with every word deleted. The length ratio compares the speech with the original, both without silent "
    "edges; `at once` is the share of usable length without a retry. Similarity is the cosine of speaker "
    "embeddings; `nearest right` is the share of utterances that are closest to the speaker that was meant."
)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _columns(summaries: Mapping[str, Mapping[str, Summary]]) -> list[str]:
    low, high = LENGTH_RATIO_RANGE
    columns = ["voices", "voice", "utterances", "failures", "WER mean", "WER corpus"]
    if _has_originals(summaries):
        columns += [
            "original WER mean",
            "original WER corpus",
            "length ratio",
            f"length {low}–{high}",
            "at once",
        ]
    return [*columns, "retries", "similarity", "nearest right", "RTF", "first audio (s)", "artefacts"]


def _has_originals(summaries: Mapping[str, Mapping[str, Summary]]) -> bool:
    return any(s.original_wer_mean is not None for voices in summaries.values() for s in voices.values())


def table_rows(summaries: Mapping[str, Mapping[str, Summary]]) -> list[list[str]]:
    """The table's cells, the heading first. Columns about the originals are left out where there are none."""
    rows = [_columns(summaries)]
    originals = _has_originals(summaries)
    for group, voices in summaries.items():
        for voice, s in voices.items():
            row = [
                group,
                voice,
                str(s.utterances),
                str(s.failures),
                _number(s.wer_mean),
                _number(s.wer_corpus),
            ]
            if originals:
                row += [_number(s.original_wer_mean), _number(s.original_wer_corpus), _number(s.length_ratio)]
                row += [_percent(s.length_in_range), _percent(s.length_in_range_without_retry)]
            faults = ", ".join(f"{name} {count}" for name, count in s.faults.items()) or "none"
            row += [str(s.retries), _number(s.similarity), _percent(s.nearest_accuracy), _number(s.rtf)]
            rows.append([*row, _number(s.time_to_first_audio), faults])
    return rows


def rich_table(summaries: Mapping[str, Mapping[str, Summary]]) -> Table:
    """The columns that fit a terminal of 80 characters; the Markdown report has all."""
    table = Table()
    table.add_column("voice")
    for name in ("spoken", "failed", "WER", "original", "length", "alike", "nearest", "RTF"):
        table.add_column(name, justify="right")
    for group, voices in summaries.items():
        for voice, s in voices.items():
            total = voice == "all"
            table.add_row(
                f"{group}: all" if total else voice,
                str(s.utterances),
                str(s.failures),
                _number(s.wer_mean),
                _number(s.original_wer_mean),
                _number(s.length_ratio),
                _number(s.similarity),
                _percent(s.nearest_accuracy),
                _number(s.rtf),
                style="bold" if total else None,
                end_section=total,
            )
    return table


def markdown_report(
    summaries: Mapping[str, Mapping[str, Summary]], settings: Mapping[str, Any], notes: Sequence[str] = ()
) -> str:
    """The whole report: table, settings that the numbers depend on, notes about what was left out."""
    heading, *rows = table_rows(summaries)
    lines = ["# Evaluation", "", "| " + " | ".join(heading) + " |", "|" + " --- |" * len(heading)]
    lines += ["| " + " | ".join(f"**{c}**" if row[1] == "all" else c for c in row) + " |" for row in rows]
    lines += [
        "",
        _EXPLANATION,
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in settings.items()]
    lines += [f"- note: {note}" for note in notes]
    return "\n".join(lines) + "\n"


def _figure(width: float, height: float) -> Any:
    try:
        # The object-oriented interface draws into memory; it neither needs a display nor keeps figures alive.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib: pip install 'cosyvoice[evaluate]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_word_errors(summaries: Mapping[str, Mapping[str, Summary]], path: Path) -> None:
    """Bars of the mean word error rate of every voice, beside that of its original, as PNG."""
    bars = [(voice, s) for voices in summaries.values() for voice, s in voices.items() if voice != "all"]
    figure = _figure(max(5.0, 1.5 + 0.6 * len(bars)), 4.0)
    axes = figure.add_subplot()
    places = np.arange(len(bars))
    axes.bar(places - 0.2, [s.wer_mean or 0.0 for _, s in bars], 0.4, label="model")
    if _has_originals(summaries):
        axes.bar(places + 0.2, [s.original_wer_mean or 0.0 for _, s in bars], 0.4, label="original")
    axes.set_xticks(places, [voice for voice, _ in bars], rotation=45, ha="right")
    axes.set_ylabel("word error rate (mean of utterances)")
    axes.legend()
    figure.savefig(path, format="png", dpi=_DPI)


def plot_similarity(
    spoken: Mapping[str, Sequence[np.ndarray]], enrolled: Mapping[str, np.ndarray], path: Path, title: str
) -> None:
    """Cosines of every voice's mean embedding (rows) with the enrolled speakers (columns), as PNG.

    Args:
        spoken: embeddings [dim] of the utterances of every voice.
        enrolled: embedding [dim] of every speaker.
        path: where to write.
        title: heading.
    """
    rows, columns, values = similarity_matrix({name: centroid(e) for name, e in spoken.items()}, enrolled)
    figure = _figure(2.5 + 0.5 * len(columns), 2.0 + 0.4 * len(rows))
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("original speaker")
    axes.set_ylabel("spoken by the model")
    axes.set_title(title)
    figure.colorbar(image, label="cosine")
    figure.savefig(path, format="png", dpi=_DPI)
