from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cosyvoice.errors import AudioError
from cosyvoice.utils.file_utils import load_wav, logging

WAV = Path(__file__).parents[1] / "data" / "parity" / "wav" / "stereo_44k.wav"


def test_samples_of_a_path_and_of_an_upload_are_the_same() -> None:
    samples = load_wav(WAV, 16000)
    assert samples.dtype == torch.float32 and samples.shape == (1, 6400)
    with tempfile.SpooledTemporaryFile() as upload:
        upload.write(WAV.read_bytes())
        upload.seek(0)
        assert torch.equal(load_wav(upload, 16000), samples)  # type: ignore[arg-type]


def test_a_rate_that_is_too_low(write_wav: Callable[..., Path], make_speech: Callable[..., np.ndarray]) -> None:
    path = write_wav(make_speech(1.0, 8000), 8000)
    with pytest.raises(AudioError, match="8000 samples a second, at least 16000"):
        load_wav(path, 16000)
    assert load_wav(path, 16000, min_sr=8000).shape == (1, 16000)


def test_the_module_hands_on_what_programs_take_from_it() -> None:
    assert logging.getLogger("x").name == "x"
