from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cosyvoice.audio.io import read_audio
from cosyvoice.engine.prompt_encoders import OnnxSpeakerEncoder, OnnxSpeechTokenizer
from cosyvoice.errors import ModelError


def test_signatures_of_both_kinds(tiny_model_dir: Path, released_model_dir: Path, reference_wav: Path) -> None:
    samples, _ = read_audio(reference_wav, 16000)
    for directory, name in ((tiny_model_dir, "speech_tokenizer"), (released_model_dir, "speech_tokenizer_v3")):
        tokens = OnnxSpeechTokenizer(directory / f"{name}.onnx", threads=1)(samples)
        assert (tokens.dtype, tokens.ndim) == (np.int32, 1)
        assert len(tokens) == pytest.approx(len(samples) / 640, abs=2)
        embedding = OnnxSpeakerEncoder(directory / "campplus.onnx", threads=1)(samples)
        assert (embedding.dtype, embedding.shape) == (np.float32, (192,))


def test_a_missing_file_is_named_when_it_is_needed(tmp_path: Path, make_speech: Callable[..., np.ndarray]) -> None:
    encoder = OnnxSpeakerEncoder(tmp_path / "campplus.onnx")
    with pytest.raises(ModelError, match=r"campplus\.onnx is missing"):
        encoder(make_speech(1.0, 16000))


def test_a_damaged_file_is_named(tmp_path: Path, make_speech: Callable[..., np.ndarray]) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nothing of ONNX")
    with pytest.raises(ModelError, match="no intact ONNX file"):
        OnnxSpeechTokenizer(tmp_path / "bad.onnx")(make_speech(1.0, 16000))


def test_another_graph_is_refused(tiny_model_dir: Path, make_speech: Callable[..., np.ndarray]) -> None:
    with pytest.raises(ModelError, match="takes 1 inputs instead of 2"):
        OnnxSpeechTokenizer(tiny_model_dir / "campplus.onnx")(make_speech(1.0, 16000))
