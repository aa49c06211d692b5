"""Pictures."""

from __future__ import annotations

import numpy as np
import pytest

from cosyvoice.benchmark.plots import plot_chunks, plot_memory, plot_ratios, write_plots


def test_bars_are_the_medians_and_whiskers_the_spread(results):
    axes = plot_ratios(results.measurements, "reference").axes[0]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([2.5, 2.5])
    whiskers = axes.collections[0].get_segments()
    assert np.array(whiskers)[:, :, 1] == pytest.approx(np.array([(2.0, 3.0), (2.0, 3.0)]))


def test_the_line_is_the_least_of_the_rounds(results):
    axes = plot_chunks(results).axes[0]
    drawn = [line.get_ydata() for line in axes.lines if line.get_label() == "int8 ×2.00"]
    assert list(drawn[0]) == pytest.approx([400.0, 100.0, 200.0, 200.0])


def test_memory_shows_peaks_and_chunks(results):
    peaks, chunks = plot_memory(results).axes
    assert [bar.get_height() for bar in peaks.patches] == [300.0, 90.0]
    assert list(chunks.lines[0].get_ydata()) == [80.0, 81.0, 83.0]


def test_pictures_are_written_for_what_was_measured(results, tmp_path):
    assert {path.name for path in write_plots(results, tmp_path)} == {"ratios.png", "chunks.png", "memory.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    assert write_plots(results.model_copy(update={"measurements": {}, "streams": {}, "memory": {}}), tmp_path) == []
