from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from cosyvoice.errors import AudioError, ModelError
from cosyvoice.evaluation.similarity import (
    SPEAKER_ENCODER_FILE,
    SpeakerEmbedder,
    centroid,
    cosine_similarity,
    nearest,
    similarity_matrix,
)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """A model directory whose speaker encoder is the root mean square of every filterbank bin over time."""
    graph = helper.make_graph(
        [helper.make_node("ReduceL2", ["input", "axes"], ["output"], keepdims=0)],
        "encoder",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, "frames", 80])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 80])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / SPEAKER_ENCODER_FILE).write_bytes(model.SerializeToString())
    return tmp_path


def _noise(low: bool, seed: int, rate: int = 24000) -> np.ndarray:
    """A second of noise, the level of its lower or upper half of the spectrum changing with time."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal(rate))
    part = np.arange(len(spectrum)) < 2500
    moving = np.fft.irfft(np.where(part == low, spectrum, 0)) * (1 + np.sin(np.arange(rate) / 700)) ** 3
    return (0.02 * (moving + np.fft.irfft(np.where(part == low, 0, spectrum)))).astype(np.float32)


def test_embeddings_have_length_one_and_tell_sounds_apart(model_dir: Path) -> None:
    embed = SpeakerEmbedder(model_dir)
    low, high = embed(_noise(True, 1), 24000), embed(_noise(False, 2), 24000)
    assert float(np.linalg.norm(low)) == pytest.approx(1, abs=1e-5)
    speakers = {"low": low, "high": high}
    assert nearest(embed(_noise(True, 3), 24000), speakers) == "low"
    assert nearest(embed(_noise(False, 4), 24000), speakers) == "high"


def test_missing_and_damaged_encoders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing"):
        SpeakerEmbedder(tmp_path)
    (tmp_path / SPEAKER_ENCODER_FILE).write_bytes(b"no onnx")
    with pytest.raises(ModelError):
        SpeakerEmbedder(tmp_path)(_noise(True, 1), 24000)


def test_too_short_audio(model_dir: Path) -> None:
    with pytest.raises(AudioError, match="too short"):
        SpeakerEmbedder(model_dir)(np.zeros(2000, np.float32), 24000)


def test_cosine_centroid_and_matrix() -> None:
    a, b = np.array([2.0, 0.0]), np.array([0.0, 0.5])
    assert cosine_similarity(a, b) == 0
    assert cosine_similarity(a, a) == pytest.approx(1)
    assert cosine_similarity(centroid([a / 2, b * 2]), a) == pytest.approx(2**-0.5)
    rows, columns, values = similarity_matrix({"x": a}, {"y": b, "z": -a})
    assert (rows, columns) == (["x"], ["y", "z"])
    np.testing.assert_allclose(values, [[0, -1]], atol=1e-6)
