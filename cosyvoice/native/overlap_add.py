"""The end of the inverse transform: overlapping frames added up and divided by the windows over them.

The graph of the vocoder windows its frames and overlaps those of one run. What a run shares with the next one, and
the division, which needs to know where the signal begins and ends, are done here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosyvoice.engine.stages import FloatArray


@dataclass
class OverlapState:
    """Samples that frames to come still add to, with the sum of squared windows under them."""

    samples: FloatArray
    windows: FloatArray


class OverlapAdd:
    """For frames of `n_fft` samples, `hop` apart, with a periodic Hann window before and behind the transform."""

    def __init__(self, n_fft: int, hop: int) -> None:
        self._n_fft, self._hop = n_fft, hop
        window = np.square(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft))
        self._squared_window: FloatArray = window.astype(np.float32)

    def init_state(self) -> OverlapState:
        """A signal that begins."""
        overlap = self._n_fft - self._hop
        return OverlapState(np.zeros(overlap, np.float32), np.zeros(overlap, np.float32))

    def whole(self, overlapped: FloatArray, frames: int) -> FloatArray:
        """The signal [(frames - 1) * hop] of all its frames, overlapped in `overlapped` [time], which is changed."""
        return self.step(overlapped, frames, True, True, self.init_state())

    def step(self, overlapped: FloatArray, frames: int, first: bool, last: bool, state: OverlapState) -> FloatArray:
        """Samples that no later frame reaches, divided by the sum of the squared windows over them.

        `overlapped` [time] is the sum of the windowed `frames` of one run, `first` and `last` say where the signal
        begins and ends: its ends, half a window each, lie outside of the signal and are dropped. `overlapped` and
        `state` are changed.
        """
        hop, n_fft = self._hop, self._n_fft
        windows = np.zeros(frames * hop + n_fft, np.float32)
        for phase in range(0, n_fft, hop):
            part = self._squared_window[phase : phase + hop]
            windows[phase : phase + frames * hop].reshape(frames, hop)[:, : len(part)] += part
        windows = windows[: len(overlapped)]
        kept = len(state.samples)
        overlapped[:kept] += state.samples
        windows[:kept] += state.windows
        end = frames * hop
        state.samples, state.windows = overlapped[end:].copy(), windows[end:].copy()
        if last:
            end = len(overlapped) - n_fft // 2
        begin = n_fft // 2 if first else 0
        return overlapped[begin:end] / windows[begin:end]
