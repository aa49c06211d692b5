"""Voice conversion: what somebody said, spoken by another voice. The language model is not needed for it.

The speech tokens of the source keep what is said and how; the flow gives them the timbre of the voice. The speech
tokenizers see at most 30 s, so longer recordings are cut where they are quietest.
"""

from __future__ import annotations

import numpy as np

from cosyvoice.engine.prompt_encoders import PROMPT_SAMPLE_RATE
from cosyvoice.engine.stages import FloatArray

LONGEST_SECONDS = 28.0
_EARLIEST_CUT = 0.5
"""A part is at least this share of the longest."""
_FRAME = PROMPT_SAMPLE_RATE // 50


def cut_recording(samples: FloatArray, longest: float = LONGEST_SECONDS) -> list[FloatArray]:
    """Parts of mono `samples` [time] at 16 kHz, each at most `longest` s; joined, they are the recording."""
    parts, limit = [], int(longest * PROMPT_SAMPLE_RATE)
    while len(samples) > limit:
        first = int(_EARLIEST_CUT * limit)
        frames = samples[first : first + (limit - first) // _FRAME * _FRAME].reshape(-1, _FRAME)
        cut = first + int(np.argmin(np.square(frames).mean(axis=1))) * _FRAME + _FRAME // 2
        parts.append(samples[:cut])
        samples = samples[cut:]
    return [*parts, samples]
