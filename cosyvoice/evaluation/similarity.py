"""Speaker similarity: cosine of the model's own speaker embeddings, and who of a set of speakers is nearest.

The encoder is the ONNX file that the model itself conditions on, so absolute cosines flatter the model; the
nearest of several speakers is the harder and fairer question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cosyvoice.audio.resample import sinc_resample
from cosyvoice.engine.prompt_encoders import PROMPT_SAMPLE_RATE, OnnxSpeakerEncoder
from cosyvoice.errors import AudioError, ModelError

SPEAKER_ENCODER_FILE = "campplus.onnx"
_SHORTEST_SECONDS = 0.25


class SpeakerEmbedder:
    """Speaker encoder of a model directory, on one thread."""

    def __init__(self, model_dir: Path) -> None:
        """Raises ModelError where the directory has no speaker encoder."""
        path = model_dir / SPEAKER_ENCODER_FILE
        if not path.is_file():
            raise ModelError(f"{path} is missing; copy the complete model directory")
        self._encoder = OnnxSpeakerEncoder(path, threads=1)

    def __call__(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """Embedding [dim] of length 1 of mono `samples` [time].

        Raises:
            AudioError: less than 0.25 s.
            ModelError: the file is damaged.
        """
        if len(samples) < _SHORTEST_SECONDS * sample_rate:
            raise AudioError(
                f"{len(samples) / sample_rate:.2f} s are too short to know a speaker; give at least 0.25 s"
            )
        return unit(self._encoder(sinc_resample(samples, sample_rate, PROMPT_SAMPLE_RATE)))


def unit(vector: np.ndarray) -> np.ndarray:
    """`vector` scaled to length 1, float32."""
    return (vector / max(float(np.linalg.norm(vector)), 1e-9)).astype(np.float32)


def centroid(embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """The embedding of a speaker from several recordings: the mean direction, [dim]."""
    return unit(np.sum(np.stack(embeddings), axis=0))


def cosine_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two embeddings [dim], -1 to 1."""
    return float(np.dot(unit(a), unit(b)))


def nearest(embedding: np.ndarray, speakers: Mapping[str, np.ndarray]) -> str:
    """Name of the speaker whose embedding has the largest cosine with `embedding`; `speakers` must not be
    empty.
    """
    return max(speakers, key=lambda name: cosine_similarity(embedding, speakers[name]))


def similarity_matrix(
    rows: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
) -> tuple[list[str], list[str], np.ndarray]:
    """Names of rows and columns, and the cosines [rows, columns]."""
    values = [[cosine_similarity(a, b) for b in columns.values()] for a in rows.values()]
    return list(rows), list(columns), np.array(values, np.float32).reshape(len(rows), len(columns))
