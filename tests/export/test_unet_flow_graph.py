from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import save_file

from cosyvoice.errors import ModelError
from cosyvoice.export.flow_graph import quantise_flow
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.unet_flow_graph import build_causal_masked_diff, build_masked_diff
from cosyvoice.flow.causal_masked_diff import CausalMaskedDiffWithXvec
from cosyvoice.flow.masked_diff import MaskedDiffWithXvec
from cosyvoice.native.positions import Sinusoids

Network = MaskedDiffWithXvec | CausalMaskedDiffWithXvec


def weights_of(network: Network) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def build(network: Network, weights: dict[str, np.ndarray], directory: Path) -> Path:
    save_file(weights, directory / "flow.safetensors")
    tensors = TensorFile(directory / "flow.safetensors")
    if isinstance(network, MaskedDiffWithXvec):
        build_masked_diff(tensors, network.config, directory)
    else:
        build_causal_masked_diff(tensors, network.config, directory)
    return directory


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_the_encoder_gathers_and_smooths_rows(masked_diff: MaskedDiffWithXvec, tmp_path: Path) -> None:
    """Each row taken once is what the regulator makes of as many frames."""
    build(masked_diff, weights_of(masked_diff), tmp_path)
    token = np.arange(11)[None]
    cos, sin, table = Sinusoids(16)(0, 11)
    place = np.arange(11)
    feeds = {
        "token": token, "tokens_cos": cos, "tokens_sin": sin, "tokens_table": table,
        "low": place, "high": place, "share": np.zeros((11, 1), np.float32),
    }  # fmt: skip
    mu = session(tmp_path / "flow_encoder.onnx").run(["mu"], feeds)[0]
    with torch.inference_mode():
        rows = masked_diff.encoder_proj(masked_diff.encoder(masked_diff.input_embedding(torch.tensor(token)), chunk=0))
        expected = masked_diff.length_regulator(rows, torch.ones(1, 11, dtype=torch.bool))
    np.testing.assert_allclose(mu, expected, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 8, 13])
def test_the_estimator_is_that_of_the_reference(masked_diff: MaskedDiffWithXvec, tmp_path: Path, frames: int) -> None:
    build(masked_diff, weights_of(masked_diff), tmp_path)
    estimator, generator = masked_diff.decoder.estimator, torch.Generator().manual_seed(2)
    x = torch.randn(1, 8, frames, generator=generator).expand(2, -1, -1)
    mu, cond = torch.randn(2, 2, 8, frames, generator=generator)
    spks, t = torch.randn(2, 8, generator=generator), torch.tensor([0.3, 0.3])
    with torch.inference_mode():
        expected = estimator(x, torch.ones(2, 1, frames), mu, t, spks, cond)
        time = torch.nn.functional.mish(estimator.time_mlp(estimator.time_embeddings(t)))[:1]
    conditions = torch.cat([mu, spks.unsqueeze(-1).expand(-1, -1, frames), cond], dim=1).transpose(1, 2)
    feeds = {"x": x[:1].transpose(1, 2).numpy(), "conditions": conditions.numpy(), "time": time.numpy()}
    velocity = session(tmp_path / "flow.onnx").run(["velocity"], feeds)[0]
    np.testing.assert_allclose(velocity, expected.transpose(1, 2), atol=2e-5)


def test_graphs_hold_no_weights(causal_masked_diff: CausalMaskedDiffWithXvec, tmp_path: Path) -> None:
    build(causal_masked_diff, weights_of(causal_masked_diff), tmp_path)
    names = {path.name for path in tmp_path.glob("*.onnx")}
    assert names == {"flow_encoder.onnx", "flow.onnx", "flow_half_cache.onnx"}
    for name in names:
        graph = onnx.load(str(tmp_path / name), load_external_data=False).graph
        stored = [tensor for tensor in graph.initializer if not tensor.external_data]
        assert sum(len(tensor.raw_data) for tensor in stored) < 2000
        assert any(tensor.external_data for tensor in graph.initializer)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_linear_layers_of_all_blocks_are_quantised(
    masked_diff: MaskedDiffWithXvec, tmp_path: Path, precision: str
) -> None:
    weights = weights_of(masked_diff)
    quantised = quantise_flow(weights, precision)
    blocks = 2 + 1 + 2
    assert sum(name.endswith(".weight.q") for name in quantised) == 6 * blocks
    assert len(quantised) == len(weights) + 6 * blocks
    build(masked_diff, quantised, tmp_path)
    session(tmp_path / "flow.onnx")


def test_a_missing_tensor_is_named(causal_masked_diff: CausalMaskedDiffWithXvec, tmp_path: Path) -> None:
    weights = weights_of(causal_masked_diff)
    del weights["encoder.up_layer.conv.weight"]
    with pytest.raises(ModelError, match=r"encoder\.up_layer\.conv\.weight"):
        build(causal_masked_diff, weights, tmp_path)
