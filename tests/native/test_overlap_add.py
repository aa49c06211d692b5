"""Windows that are divided out again, of a whole signal and of one in pieces."""

from __future__ import annotations

import numpy as np
import pytest

from cosyvoice.native.overlap_add import OverlapAdd
from cosyvoice.native.source import SourceSpectrum


def frames_of(signal: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Windowed twice [frames, n_fft], as they come out of the transform and its inverse."""
    padded = np.pad(signal, n_fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    starts = range(0, len(signal) + 1, hop)
    return np.stack([padded[start : start + n_fft] * window**2 for start in starts]).astype(np.float32)


def overlapped(frames: np.ndarray, hop: int) -> np.ndarray:
    total = np.zeros((len(frames) - 1) * hop + frames.shape[1], np.float32)
    for index, frame in enumerate(frames):
        total[index * hop : index * hop + len(frame)] += frame
    return total


@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (20, 8)])
def test_the_signal_comes_back(n_fft: int, hop: int) -> None:
    signal = np.random.default_rng(0).standard_normal(25 * hop).astype(np.float32)
    frames = frames_of(signal, n_fft, hop)
    assert len(SourceSpectrum(n_fft, hop).whole(signal)) == len(frames) == 26
    adder = OverlapAdd(n_fft, hop)
    np.testing.assert_allclose(adder.whole(overlapped(frames, hop), len(frames)), signal, atol=1e-4)
    state, pieces = adder.init_state(), []
    for begin, end in ((0, 9), (9, 10), (10, 26)):
        part = overlapped(frames[begin:end], hop)
        pieces.append(adder.step(part, end - begin, begin == 0, end == 26, state))
    np.testing.assert_allclose(np.concatenate(pieces), signal, atol=1e-4)
