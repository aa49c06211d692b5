"""Whether a recording holds more than one voice: embeddings of its windows that fall into two far groups.

A reference in which two people speak gives a voice between them, or one that changes, without any further sign. The
speaker encoder is that of the small model, whatever the model is, since the threshold was measured with it
(`benchmarks/several_speakers.py`). It hears clearly different voices; a change between alike ones passes, and so does
one of less than two seconds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosyvoice.audio.resample import sinc_resample
from cosyvoice.engine.aligner import SHIPPED
from cosyvoice.engine.prompt_encoders import PROMPT_SAMPLE_RATE, OnnxSpeakerEncoder
from cosyvoice.engine.stages import FloatArray
from cosyvoice.errors import SeveralSpeakersError
from cosyvoice.voice.checks import speech_only

DIFFERENT = 0.45
"""Cosine of the centres of the two groups below which they are two speakers."""

_WINDOW_SECONDS, _HOP_SECONDS = 1.5, 0.5
_SMALLEST_GROUP = 2
_ROUNDS = 10


class SpeakerCheck:
    """Hears whether all of a recording is one voice. Not changed by use, and safe from many threads."""

    def __init__(self, encoder: Path = SHIPPED / "campplus.onnx", threads: int | None = None) -> None:
        self._encode = OnnxSpeakerEncoder(encoder, threads)

    def __call__(self, samples: FloatArray, sample_rate: int) -> None:
        """Raise `SeveralSpeakersError` where mono `samples` [time] seem to hold several voices."""
        if self.likeness(samples, sample_rate) < DIFFERENT:
            raise SeveralSpeakersError(
                "the recording seems to hold several speakers; cut it to the one whose voice is meant"
            )

    def likeness(self, samples: FloatArray, sample_rate: int) -> float:
        """Cosine of the two groups into which the windows of mono `samples` [time] fall best, -1 to 1.

        1 where there is too little speech for two groups, or one of them is a single window.
        """
        speech = sinc_resample(speech_only(samples, sample_rate), sample_rate, PROMPT_SAMPLE_RATE)
        window, hop = (int(seconds * PROMPT_SAMPLE_RATE) for seconds in (_WINDOW_SECONDS, _HOP_SECONDS))
        starts = range(0, len(speech) - window + 1, hop)
        if len(starts) < 2 * _SMALLEST_GROUP:
            return 1.0
        return two_groups(np.stack([self._encode(speech[start : start + window]) for start in starts]))


def two_groups(embeddings: NDArray[np.float32]) -> float:
    """Cosine of the centres of `embeddings` [windows, dim] in two groups; 1 where one would have a single window.

    Those groups count that differ most: of all divisions into an earlier and a later part, and of those that k-means
    finds on the sphere, from the two windows that are least alike. Speakers may follow each other or take turns.
    """
    rows = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-9)
    order = np.arange(len(rows))
    cuts = range(_SMALLEST_GROUP, len(rows) - _SMALLEST_GROUP + 1)
    divisions = [order >= cut for cut in cuts]
    alike = rows @ rows.T
    centres = rows[list(np.unravel_index(np.argmin(alike), alike.shape))]
    for _ in range(_ROUNDS):
        second = (rows @ centres[1]) > (rows @ centres[0])
        if min(second.sum(), (~second).sum()) < _SMALLEST_GROUP:
            break
        centres = _centres(rows, second)
        divisions.append(second)
    return min((float(np.dot(*_centres(rows, second))) for second in divisions), default=1.0)


def _centres(rows: NDArray[np.float32], second: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean directions [2, dim] of the two groups of `rows`."""
    sums = np.stack([rows[~second].sum(axis=0), rows[second].sum(axis=0)])
    return np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9))
