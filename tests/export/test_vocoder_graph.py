"""The vocoder's graph: folded weight norms, upsampling by phases, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from torch.nn.utils.parametrizations import weight_norm

from cosyvoice.config.model import HiFTConfig
from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.vocoder_graph import build_vocoder, fold_weight_norm, inverse_basis, phase_taps
from cosyvoice.hifigan.generator import CausalHiFTGenerator

CONFIG = HiFTConfig(base_channels=16, f0_channels=8)


def arrays_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("old_names", [True, False])
def test_weight_norms_are_folded_under_both_spellings(old_names: bool) -> None:
    layer = weight_norm(torch.nn.Conv1d(3, 5, 4))
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(1.7)
    weights = {f"a.b.{name}": value for name, value in arrays_of(layer).items()}
    if old_names:
        for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
            weights[f"a.b.{old}"] = weights.pop(f"a.b.parametrizations.weight.{new}")
    weights["alpha"] = np.ones(3, np.float32)
    folded = fold_weight_norm(weights)
    assert sorted(folded) == ["a.b.bias", "a.b.weight", "alpha"]
    assert folded["a.b.weight"].dtype == np.float32
    np.testing.assert_allclose(folded["a.b.weight"], layer.weight.detach().numpy(), rtol=1e-6)
    assert fold_weight_norm(weights, keep=("a.",)) == weights


@pytest.mark.parametrize(("kernel", "rate"), [(16, 8), (11, 5), (7, 3), (10, 5), (1, 2), (4, 7), (5, 1)])
def test_taps_of_repeated_frames_are_added_up(kernel: int, rate: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 1, 9, generator=generator), torch.randn(1, 1, kernel, generator=generator)
    expected = F.conv1d(F.pad(x.repeat_interleave(rate, 2), (kernel - 1, 0)), weight)[0, 0]
    select = torch.from_numpy(phase_taps(kernel, rate))
    phases = torch.tensordot(weight[0, 0], select, dims=1)[:, None]
    ours = F.conv1d(F.pad(x, (select.shape[2] - 1, 0)), phases)[0].T.flatten()
    np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("n_fft", [16, 96])
def test_the_inverse_basis_undoes_the_transform(n_fft: int) -> None:
    frame = np.random.default_rng(0).standard_normal(n_fft)
    spectrum = np.fft.rfft(frame)
    window = torch.hann_window(n_fft).numpy()
    ours = np.concatenate([spectrum.real, spectrum.imag]) @ inverse_basis(n_fft)
    np.testing.assert_allclose(ours, frame * window, atol=1e-6)


def test_the_graph_points_at_the_weights_and_holds_none(tmp_path: Path) -> None:
    save_file(fold_weight_norm(arrays_of(CausalHiFTGenerator(CONFIG))), tmp_path / "hift.safetensors")
    build_vocoder(TensorFile(tmp_path / "hift.safetensors"), CONFIG, tmp_path)
    path = tmp_path / "vocoder.onnx"
    onnx.checker.check_model(str(path))
    graph = onnx.load(str(path), load_external_data=False).graph
    inside = [t for t in graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    assert sum(len(tensor.raw_data) for tensor in inside) < 20_000
    names = {tensor.name for tensor in graph.initializer}
    assert {"conv_pre.weight", "resblocks.8.activations2.2.alpha", "conv_post.bias"} <= names
    inputs = {
        value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim] for value in graph.input
    }
    assert inputs["source_downs.0"] == [1, 18, 1, 15]
    assert inputs["resblocks.2.convs1.2"] == [1, 8, 1, 50]
    assert {f"{name}.next" for name in inputs if name not in ("mel", "spectrum", "first")} < {
        value.name for value in graph.output
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_pre_look_right": 0}, "conv_pre_look_right is 0"),
        ({"istft_n_fft": 15}, "istft_n_fft is 15"),
        ({"istft_n_fft": 2}, "istft_n_fft is 2"),
        ({"istft_n_fft": 960}, "istft_n_fft is 960"),
    ],
)
def test_a_geometry_without_chunks_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_file({"unused": np.zeros(1, np.float32)}, tmp_path / "hift.safetensors")
    with pytest.raises(ConfigError, match=message):
        build_vocoder(TensorFile(tmp_path / "hift.safetensors"), CONFIG.model_copy(update=changes), tmp_path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    save_file({"unused": np.zeros(1, np.float32)}, tmp_path / "hift.safetensors")
    with pytest.raises(ModelError, match=r"conv_pre\.weight"):
        build_vocoder(TensorFile(tmp_path / "hift.safetensors"), CONFIG, tmp_path)
