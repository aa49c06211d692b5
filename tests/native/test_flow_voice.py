from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from cosyvoice.errors import ModelError
from cosyvoice.flow.embedding import sinusoidal_time
from cosyvoice.flow.masked_diff import MaskedDiffWithXvec
from cosyvoice.native.flow_voice import VoiceReader, Weights, mish, silu, time_code


def test_the_reference_is_read_as_by_the_networks(masked_diff: MaskedDiffWithXvec, tmp_path: Path) -> None:
    path = tmp_path / "flow.safetensors"
    save_file({name: tensor.numpy() for name, tensor in masked_diff.state_dict().items()}, path)
    reader = VoiceReader(Weights(path), masked_diff.config)
    embedding = np.random.default_rng(1).standard_normal(12).astype(np.float32)
    expected = masked_diff.spk_embed_affine_layer(F.normalize(torch.from_numpy(embedding)[None]))[0]
    np.testing.assert_allclose(reader.speaker(embedding), expected, atol=1e-6)
    assert np.isfinite(reader.speaker(np.zeros(12, np.float32))).all()
    assert reader.mel(np.full((2, 8), 3.0, np.float32)).tolist() == [[2.0] * 8] * 2
    assert reader.tokens([-1, 5]).tolist() == [0, 5]
    with pytest.raises(ModelError, match=r"speech token 37 is outside 0\.\.36"):
        reader.tokens([37])


def test_functions_are_those_of_the_networks() -> None:
    x = np.linspace(-30, 30, 61, dtype=np.float32)
    np.testing.assert_allclose(mish(x), F.mish(torch.from_numpy(x)), atol=1e-5)
    np.testing.assert_allclose(silu(x), F.silu(torch.from_numpy(x)), atol=1e-5)
    times = np.array([0, 0.2, 1], np.float32)
    np.testing.assert_allclose(time_code(times, 16), sinusoidal_time(torch.from_numpy(times), 16), atol=2e-4)
