"""Transposed convolutions as plain ones, and geometries that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from cosyvoice.config.model import HiFTConfig
from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.hift_graph import build_hift, transposed_taps

CONFIG = HiFTConfig(causal=False, base_channels=16, f0_channels=8, source_phase="linear")


@pytest.mark.parametrize(("kernel", "rate"), [(16, 8), (11, 5), (7, 3), (5, 5), (4, 2), (3, 1), (9, 1), (17, 3)])
def test_phases_of_a_transposed_convolution(kernel: int, rate: int) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 7, generator=random)
    weight = torch.randn(3, 2, kernel, generator=random)
    expected = F.conv_transpose1d(x, weight, stride=rate, padding=(kernel - rate) // 2)
    select, before = transposed_taps(kernel, rate)
    assert select.sum() == kernel
    phases = torch.einsum("iok,krt->orit", weight, torch.from_numpy(select)).reshape(2 * rate, 3, -1)
    y = F.conv1d(F.pad(x, (before, select.shape[2] - 1 - before)), phases)
    ours = y.reshape(2, rate, -1).transpose(1, 2).reshape(1, 2, -1)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upsample_kernel_sizes": (16, 10, 7)}, "holds 10 for a rate of 5"),
        ({"upsample_kernel_sizes": (6, 11, 7)}, "holds 6 for a rate of 8"),
        ({"istft_n_fft": 15}, "istft_n_fft is 15"),
        ({"istft_n_fft": 2}, "istft_n_fft is 2"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_file({"unused": np.zeros(1, np.float32)}, tmp_path / "hift.safetensors")
    with pytest.raises(ConfigError, match=message):
        build_hift(TensorFile(tmp_path / "hift.safetensors"), CONFIG.model_copy(update=changes), tmp_path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    save_file({"unused": np.zeros(1, np.float32)}, tmp_path / "hift.safetensors")
    with pytest.raises(ModelError, match=r"conv_pre\.weight"):
        build_hift(TensorFile(tmp_path / "hift.safetensors"), CONFIG, tmp_path)
