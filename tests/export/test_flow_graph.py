from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file, save_file

from cosyvoice.config.model import DiTConfig, FlowConfig
from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.export.flow_graph import build_flow, quantise_flow
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.quantise import dequantise
from cosyvoice.flow.flow import CausalMaskedDiffWithDiT
from cosyvoice.native.chunked_flow import GRAPHS, PLAIN_GRAPHS
from cosyvoice.native.flow_encoder import modulations

CONFIG = FlowConfig(
    vocab_size=11,
    speaker_embedding_dim=6,
    mel_dim=8,
    pre_lookahead_channels=8,
    dit=DiTConfig(dim=64, depth=2, heads=4, dim_head=8, mel_dim=8, mu_dim=8, spk_dim=8, out_channels=8),
)
LINEARS = 6 * CONFIG.dit.depth
FRAMES = 17
GRAPH_FILES = (*GRAPHS.values(), *PLAIN_GRAPHS.values())


@pytest.fixture(scope="module")
def network() -> CausalMaskedDiffWithDiT:
    network = CausalMaskedDiffWithDiT(CONFIG)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def weights(network: CausalMaskedDiffWithDiT) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def build(weights: dict[str, np.ndarray], directory: Path) -> Path:
    save_file(weights, directory / "flow.safetensors")
    build_flow(TensorFile(directory / "flow.safetensors"), CONFIG, directory)
    return directory


@pytest.fixture(scope="module")
def built(weights: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(weights, tmp_path_factory.mktemp("flow"))


def feeds(directory: Path, time: float = 0.3, past: int = 0, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Random inputs of the estimator; those of the conditions are given as their part of the projection."""
    random, dit = np.random.default_rng(1), CONFIG.dit

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    inv_freq = load_file(directory / "flow.safetensors")["decoder.estimator.rotary_embed.inv_freq"]
    angle = np.outer(np.arange(past, past + FRAMES), inv_freq).astype(np.float32)
    inputs = {
        "x": normal(1, FRAMES, dit.mel_dim),
        "projected": normal(2, FRAMES, dit.dim),
        "modulation": modulations(directory / "flow.safetensors", CONFIG, [np.float32(time)])[0],
        "cos": np.cos(angle),
        "sin": np.sin(angle),
        "keep": np.array([FRAMES]),
        "conv1": np.zeros((2, dit.dim, 30), np.float32),
        "conv2": np.zeros((2, dit.dim, 30), np.float32),
    }
    for block in range(dit.depth):
        for part in ("key", "value"):
            inputs[f"past_{part}_{block}"] = normal(2, dit.heads, past, dit.dim_head).astype(dtype)
    return inputs


def velocity(directory: Path, inputs: dict[str, np.ndarray], graph: str = "flow.onnx") -> np.ndarray:
    session = onnxruntime.InferenceSession(directory / graph, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["velocity"], inputs)[0])


def test_an_evaluation_is_that_of_the_reference(network: CausalMaskedDiffWithDiT, built: Path) -> None:
    inputs = feeds(built)
    dit = network.decoder.estimator
    generator = torch.Generator().manual_seed(5)
    mu, cond = (torch.randn(2, FRAMES, 8, generator=generator) for _ in range(2))
    spks = torch.randn(2, 8, generator=generator)
    x = torch.from_numpy(inputs["x"]).expand(2, -1, -1)
    with torch.inference_mode():
        known = torch.cat([torch.zeros_like(x), cond, mu, spks[:, None].expand(-1, FRAMES, -1)], dim=2)
        projected = dit.input_embed.proj(known).numpy()
        across = (x.transpose(1, 2), torch.ones(2, 1, FRAMES), mu.transpose(1, 2), torch.full((2,), 0.3))
        expected = dit(*across, spks, cond.transpose(1, 2)).transpose(1, 2).numpy()
    for graph in GRAPH_FILES:
        past = np.float16 if "half" in graph else np.float32
        ours = velocity(built, {**feeds(built, dtype=past), "projected": projected}, graph)
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("past", [0, 20])
def test_rows_do_not_depend_on_each_other(built: Path, past: int) -> None:
    inputs = feeds(built, past=past)
    alone = {
        name: array[:1] if name.startswith(("projected", "conv", "past")) else array for name, array in inputs.items()
    }
    np.testing.assert_allclose(velocity(built, alone), velocity(built, inputs)[:1], atol=1e-6)


def test_plain_graphs_hold_operations_of_the_standard_and_continue_cached_frames(
    weights: dict[str, np.ndarray], built: Path, tmp_path: Path
) -> None:
    for directory in (built, build(quantise_flow(weights, "int8"), tmp_path)):
        for name in PLAIN_GRAPHS.values():
            graph = onnx.load(directory / name, load_external_data=False).graph
            assert {node.domain for node in graph.node} == {""}
    wanted = ["velocity", "next_conv2", "key_1", "value_0"]
    inputs = {**feeds(built, past=20), "keep": np.array([3])}
    plain, fused = (onnxruntime.InferenceSession(built / name).run(wanted, inputs) for name in GRAPH_FILES[2::-2])
    for a, b in zip(plain, fused, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_weights_in_blocks_have_no_plain_graphs(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    build(quantise_flow(weights, "int4"), tmp_path)
    assert {path.name for path in tmp_path.glob("*.onnx")} == set(GRAPHS.values())


def test_keys_and_values_are_given_of_the_last_frames_only(built: Path) -> None:
    session = onnxruntime.InferenceSession(built / "flow.onnx", providers=["CPUExecutionProvider"])
    inputs = feeds(built, past=5)
    every = session.run(["key_1", "value_0", "velocity"], inputs)
    assert every[0].shape == (2, 4, FRAMES, 8)
    some = session.run(["key_1", "value_0", "velocity"], {**inputs, "keep": np.array([3])})
    for a, b in zip(some[:2], every[:2], strict=True):
        np.testing.assert_array_equal(a, b[:, :, -3:])
    none = session.run(["key_1", "value_0", "velocity"], {**inputs, "keep": np.array([0])})
    assert none[0].shape == none[1].shape == (2, 4, 0, 8)
    np.testing.assert_array_equal(none[2], every[2])


def test_graphs_hold_no_weights(built: Path) -> None:
    for name in GRAPH_FILES:
        proto = onnx.load(built / name, load_external_data=False)
        inside = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
        assert inside < 2000
        onnx.checker.check_model(str(built / name))


def test_int8_uses_seven_bits_and_an_own_scale_for_each_output(weights: dict[str, np.ndarray]) -> None:
    quantised = quantise_flow(weights, "int8")
    names = [name.removesuffix(".q") for name in quantised if name.endswith(".q")]
    assert len(names) == LINEARS and all(name in weights and name not in quantised for name in names)
    assert all(quantised[name] is weights[name] for name in weights if name not in names)
    for name in names:
        q, scales = quantised[f"{name}.q"], quantised[f"{name}.scales"]
        assert q.dtype == np.int8 and np.abs(q.astype(int)).max(axis=0).tolist() == [63] * len(scales)
        np.testing.assert_allclose(q.T * scales[:, None], weights[name], atol=scales.max() / 2 * 1.001)


def test_int4_is_the_layout_of_block_quantisation(weights: dict[str, np.ndarray]) -> None:
    quantised = quantise_flow(weights, "int4")
    for name in (name for name in quantised if name.endswith(".q")):
        weight = weights[name.removesuffix(".q")]
        restored = dequantise(quantised[name], quantised[f"{name.removesuffix('.q')}.scales"], 4, weight.shape[1])
        assert np.sqrt(np.square(restored - weight).mean()) < 0.15 * weight.std()


@pytest.mark.parametrize(("precision", "bound"), [("int8", 0.02), ("int4", 0.15)])
@pytest.mark.parametrize("past", [0, 20])
def test_quantised_estimators_stay_near(
    weights: dict[str, np.ndarray], built: Path, tmp_path: Path, precision: str, bound: float, past: int
) -> None:
    quantised = velocity(build(quantise_flow(weights, precision), tmp_path), feeds(built, past=past))
    expected = velocity(built, feeds(built, past=past))
    error = np.sqrt(np.square(quantised - expected).mean()) / expected.std()
    assert 1e-4 < error < bound


def test_an_output_of_zeros_can_be_quantised(weights: dict[str, np.ndarray]) -> None:
    name = "decoder.estimator.transformer_blocks.0.ff.ff.2.weight"
    quantised = quantise_flow({name: np.zeros_like(weights[name])}, "int8")
    assert not quantised[f"{name}.q"].any() and np.isfinite(quantised[f"{name}.scales"]).all()


def test_what_does_not_fit_is_refused(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be quantised to 'int3'"):
        quantise_flow(weights, "int3")
    name = "decoder.estimator.transformer_blocks.1.attn.to_k.weight"
    with pytest.raises(ModelError, match=r"lacks the tensor .*to_k\.weight"):
        build({key: array for key, array in weights.items() if key != name}, tmp_path)
