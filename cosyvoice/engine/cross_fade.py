"""The joint of two overlapping chunks, of mel frames or of samples."""

from __future__ import annotations

import numpy as np

from cosyvoice.engine.compat import Compat
from cosyvoice.engine.stages import FloatArray


def cross_fade(length: int, compat: Compat) -> tuple[FloatArray, FloatArray]:
    """Weights [length] of the new and of the old samples in an overlap: the halves of a Hamming window.

    Scaled to sum to one everywhere, or, where `compat` is "released", as they are.
    """
    window = np.hamming(2 * length)
    rise, fall = window[:length], window[length:]
    if compat == "corrected":
        total = rise + fall
        rise, fall = rise / total, fall / total
    return rise.astype(np.float32), fall.astype(np.float32)
