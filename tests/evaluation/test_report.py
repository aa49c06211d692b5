from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cosyvoice.errors import MissingDependencyError
from cosyvoice.evaluation.report import (
    markdown_report,
    plot_similarity,
    plot_word_errors,
    rich_table,
    table_rows,
)
from cosyvoice.evaluation.results import Summary, UtteranceResult, summarise_voices
from cosyvoice.evaluation.wer import WordErrors

RESULT = UtteranceResult(
    "preset", "anna", "one two", "one too", WordErrors(1, 0, 0, 2), duration=2.0, rtf=0.5, time_to_first_audio=0.25,
    original="slt", original_errors=WordErrors(0, 0, 0, 2), length_ratio=1.1, similarity=0.75, nearest="slt",
    meant="slt",
)  # fmt: skip


@pytest.fixture
def summaries() -> dict[str, dict[str, Summary]]:
    return summarise_voices([RESULT, replace(RESULT, voice="bert", failure="empty", rtf=None)])


def test_cells_follow_the_heading(summaries: dict[str, dict[str, Summary]]) -> None:
    heading, anna, bert, total = (
        dict(zip(table_rows(summaries)[0], row, strict=True)) for row in table_rows(summaries)
    )
    assert heading["voice"] == "voice"
    assert anna["WER mean"] == "0.50"
    assert anna["original WER mean"] == "0.00"
    assert anna["RTF"] == "0.50"
    assert anna["length 0.6–1.5"] == "100 %"
    assert (bert["failures"], bert["RTF"]) == ("1", "–")
    assert (total["voice"], total["utterances"]) == ("all", "2")


def test_columns_about_originals_are_left_out_without_them() -> None:
    alone = replace(RESULT, original="", original_errors=None, length_ratio=None, meant=None, nearest=None)
    heading, row, _ = table_rows(summarise_voices([alone]))
    assert not [name for name in heading if "original" in name or "length" in name]
    assert len(row) == len(heading)


def test_markdown_has_table_settings_and_notes(summaries: dict[str, dict[str, Summary]]) -> None:
    text = markdown_report(summaries, {"recogniser": "fake 1"}, ["flite is not installed"])
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 5
    assert len({line.count("|") for line in table}) == 1
    assert "- recogniser: fake 1" in text
    assert "- note: flite is not installed" in text


def test_terminal_table(summaries: dict[str, dict[str, Summary]]) -> None:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(rich_table(summaries))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    (anna,) = [line for line in lines if "anna" in line]
    assert [cell.strip() for cell in anna.split("│")[1:-1]] == [
        "anna", "1", "0", "0.50", "0.00", "1.10", "0.75", "100 %", "0.50",
    ]  # fmt: skip


def test_plots(summaries: dict[str, dict[str, Summary]], tmp_path: Path) -> None:
    plot_word_errors(summaries, tmp_path / "wer.png")
    embeddings = {"anna": [np.array([1.0, 0.0]), np.array([0.8, 0.6])], "bert": [np.array([0.0, 1.0])]}
    plot_similarity(embeddings, {"slt": np.array([1.0, 0.0])}, tmp_path / "similarity.png", "preset")
    for name in ("wer.png", "similarity.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_missing_matplotlib_names_the_command(
    summaries: dict[str, dict[str, Summary]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        plot_word_errors(summaries, tmp_path / "wer.png")
