"""Fundamental frequency for training: WORLD's harvest, refined by stonemask, on the frames of the mel.

Needs pyworld, which only training installs.
"""

from __future__ import annotations

import numpy as np

from cosyvoice.errors import MissingDependencyError

_MIN_VOICED = 5


def extract_f0(samples: np.ndarray, sample_rate: int, hop_size: int, frames: int) -> np.ndarray:
    """F0 of mono `samples` [time] in Hz, 0 where unvoiced: [frames], float64.

    harvest finds the contour; where it finds fewer than five voiced frames, dio tries. The contour has a
    value every `hop_size / sample_rate` seconds and is linearly interpolated to `frames` values (positions at
    the middle of the frames, as `torch.nn.functional.interpolate` with `align_corners=False`).

    Raises:
        MissingDependencyError: pyworld is not installed.
    """
    try:
        import pyworld
    except ImportError:
        raise MissingDependencyError(
            "extracting F0 needs pyworld; install it with: pip install 'cosyvoice[train]'"
        ) from None
    samples = samples.astype(np.float64)
    period = 1000.0 * hop_size / sample_rate
    contour, times = pyworld.harvest(samples, sample_rate, frame_period=period)
    if np.count_nonzero(contour) < _MIN_VOICED:
        contour, times = pyworld.dio(samples, sample_rate, frame_period=period)
    contour = pyworld.stonemask(samples, contour, times, sample_rate)
    positions = (np.arange(frames) + 0.5) * (len(contour) / frames) - 0.5
    # np.interp holds the edge values beyond the ends, as the released interpolation does.
    return np.interp(positions, np.arange(len(contour)), contour)
