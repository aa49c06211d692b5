"""Pictures of training: losses over steps, spectrograms, attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def plot_losses(history: Mapping[str, Sequence[tuple[int, float]]], path: Path) -> None:
    """One panel a quantity, training and validation together."""
    names = sorted({key.split("/", 1)[1] for key in history})
    if not names:
        return
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.6 * rows), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        for prefix, style in (("train", "-"), ("validation", "o-")):
            points = history.get(f"{prefix}/{name}")
            if points:
                axis.plot(*zip(*points, strict=True), style, markersize=3, linewidth=1, label=prefix)
        axis.set_title(name, fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def plot_mels(mels: Mapping[str, np.ndarray], path: Path, seconds_per_frame: float = 0.02) -> None:
    """Log-mel spectrograms [frames, bins] above each other on one scale."""
    figure, axes = plt.subplots(len(mels), 1, figsize=(10, 2.2 * len(mels)), squeeze=False)
    low = min(float(np.percentile(mel, 5)) for mel in mels.values())
    high = max(float(mel.max()) for mel in mels.values())
    for axis, (name, mel) in zip(axes.flat, mels.items(), strict=True):
        extent = (0, len(mel) * seconds_per_frame, 0, mel.shape[1])
        axis.imshow(mel.T, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap="magma")
        axis.set_title(name, fontsize=9)
        axis.set_ylabel("mel bin")
    axes.flat[-1].set_xlabel("s")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def plot_attention(attention: np.ndarray, symbols: Sequence[str], path: Path) -> None:
    """Attention [speech tokens, text tokens]."""
    figure, axis = plt.subplots(figsize=(max(6, 0.16 * len(symbols)), 5))
    axis.imshow(attention, origin="lower", aspect="auto", cmap="viridis", vmin=0)
    axis.set_xticks(range(len(symbols)), symbols, fontsize=6, rotation=90)
    axis.set_ylabel("speech token (40 ms)")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
