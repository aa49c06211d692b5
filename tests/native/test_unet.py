from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from cosyvoice.config.model import UNetConfig
from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.flow.masked_diff import MaskedDiffWithXvec
from cosyvoice.native.unet import cache_layout, conditions, embedded_times


def test_the_caches_of_the_released_net() -> None:
    layout = cache_layout(UNetConfig(channels=(256,), causal=True))
    assert [channels for channels, _ in layout.convolutions] == [320, *[256] * 26, 512, *[256] * 3]
    assert (layout.layers, layout.values) == (56, 57344)


def test_a_net_that_changes_the_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match="backend='reference'"):
        cache_layout(UNetConfig(channels=(256, 256), causal=True))


def test_times_are_embedded_as_in_the_reference(masked_diff: MaskedDiffWithXvec, tmp_path: Path) -> None:
    path, estimator = tmp_path / "flow.safetensors", masked_diff.decoder.estimator
    save_file({name: tensor.numpy() for name, tensor in masked_diff.state_dict().items()}, path)
    times = [np.float32(0), np.float32(0.3), np.float32(1)]
    expected = F.mish(estimator.time_mlp(estimator.time_embeddings(torch.tensor(times))))
    ours = embedded_times(path, masked_diff.config.unet, times)
    assert [time.shape for time in ours] == [(1, 64)] * 3
    np.testing.assert_allclose(np.concatenate(ours), expected, atol=1e-5)
    with pytest.raises(ModelError, match="convert the model again"):
        embedded_times(tmp_path / "none.safetensors", masked_diff.config.unet, times)


def test_the_second_row_knows_no_condition() -> None:
    mu, speaker, shown = np.ones((5, 2), np.float32), np.full(2, 2, np.float32), np.full((3, 2), 3, np.float32)
    rows = conditions(mu, speaker, shown)
    assert rows[0].tolist() == [[1, 1, 2, 2, 3, 3]] * 3 + [[1, 1, 2, 2, 0, 0]] * 2
    assert not rows[1].any()
