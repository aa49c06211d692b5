"""Faster and slower recordings at the same pitch, by waveform-similarity overlap-add.

Windows of the recording are laid down at half their length and cross-faded. Each is taken near the place that the speed
asks for, where it continues the window before most similarly (Verhelst and Roelands, 1993).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WINDOW_SECONDS, _SEARCH_SECONDS = 0.04, 0.01


def time_stretch(samples: NDArray[np.floating], rate: int, speed: float) -> NDArray[np.float32]:
    """Mono `samples` [time] at `rate` Hz, `speed` times as fast: [round(time / speed)].

    Raises `ValueError` for a speed that is not above zero.
    """
    if not speed > 0:
        raise ValueError(f"the speed is {speed:g}; use one above 0")
    hop = max(int(rate * _WINDOW_SECONDS / 2), 1)
    search = int(rate * _SEARCH_SECONDS)
    count = round(len(samples) / speed)
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
    padded = np.pad(samples.astype(np.float32), (hop + search, int(3 * hop * max(speed, 1)) + search))
    steps = -(-count // hop) + 1
    out = np.zeros((steps + 1) * hop, np.float32)
    previous = 0
    for index in range(steps):
        begin = search + round(index * hop * speed)
        if index:
            follows = padded[previous + hop : previous + 3 * hop]
            near = padded[begin - search : begin + search + 2 * hop]
            begin += int(np.argmax(np.correlate(near, follows[: len(near)], "valid"))) - search
        piece = padded[begin : begin + 2 * hop]
        out[index * hop : index * hop + len(piece)] += piece * window[: len(piece)]
        previous = begin
    return out[hop : hop + count]
