"""Waveform and spectrogram of speech as a picture, drawn with matplotlib where it is installed."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from cosyvoice.errors import MissingDependencyError

_LOWEST_DB = -110.0
_INK = "#808a99"
"""Of axes on a transparent ground: to be read on white as on black."""


def check_pictures() -> None:
    """Raise `MissingDependencyError` without matplotlib."""
    try:
        import matplotlib  # noqa: F401 - only to know that it is there
    except ImportError:
        raise MissingDependencyError(
            "drawing a spectrogram needs matplotlib; install it with: pip install 'cosyvoice[plot]'"
        ) from None


def draw_speech(
    samples: NDArray[np.float32], sample_rate: int, size: tuple[float, float] | None = None, transparent: bool = False
) -> bytes:
    """A PNG of mono `samples` [time]: waveform, and spectrogram in dB of full scale over linear frequency.

    `size` is in inches at 100 dots; by default it grows with the length. `transparent` suits pages of any colour.
    Raises `MissingDependencyError` without matplotlib.
    """
    check_pictures()
    from matplotlib.figure import Figure

    seconds = np.arange(len(samples)) / sample_rate
    width, height = size or (max(6.0, min(24.0, 3.0 * len(samples) / sample_rate)), 5.0)
    figure = Figure(figsize=(width, height), layout="constrained")
    wave, picture = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3])
    wave.plot(seconds, samples, linewidth=0.4)
    wave.set_ylabel("amplitude")
    peak = float(np.abs(samples).max(initial=1e-3))
    wave.set_ylim(-1.05 * peak, 1.05 * peak)
    # A window of 25 ms with four frames a window; short speech is padded to two windows.
    window = int(0.025 * sample_rate)
    padded = np.pad(samples, (0, max(0, 2 * window - len(samples))))
    with np.errstate(divide="ignore"):
        picture.specgram(
            padded, NFFT=window, noverlap=window - window // 4, Fs=sample_rate,
            scale="dB", vmin=_LOWEST_DB, cmap="magma",
        )  # fmt: skip
    picture.set_xlim(0.0, max(len(samples), 1) / sample_rate)
    picture.set_xlabel("time (s)")
    picture.set_ylabel("frequency (Hz)")
    # Digital silence is infinitely far below, and is left out of the picture: it has the colour of the lowest.
    picture.set_facecolor("black")
    if transparent:
        wave.patch.set_alpha(0.0)
        for axes in (wave, picture):
            axes.tick_params(colors=_INK)
            axes.xaxis.label.set_color(_INK)
            axes.yaxis.label.set_color(_INK)
            for spine in axes.spines.values():
                spine.set_color(_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, facecolor="none" if transparent else "white")
    return buffer.getvalue()
