"""The graph of the language model: its signature, where its weights lie, and which tensors are quantised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from safetensors.numpy import save_file

from cosyvoice.config.model import LLMConfig, Qwen2Config
from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.llm_graph import NARROW, build_llm, quantise_llm
from cosyvoice.export.quantise import dequantise
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM

CONFIG = LLMConfig(
    qwen=Qwen2Config(hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=96, vocab_size=50),
    speech_token_size=61,
    speech_extra_tokens=4,
)


def weights() -> dict[str, np.ndarray]:
    model = CosyVoice3LM(CONFIG)
    model.initialize(torch.Generator().manual_seed(0))
    return {name: tensor.numpy() for name, tensor in model.state_dict().items() if "lm_head" not in name}


def build(directory: Path, tensors: dict[str, np.ndarray], config: LLMConfig = CONFIG) -> onnx.ModelProto:
    save_file(tensors, directory / "llm.safetensors")
    path = build_llm(TensorFile(directory / "llm.safetensors"), config, directory)
    return onnx.load(path, load_external_data=False)


def operations(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


def test_the_graph_holds_no_weights(tmp_path: Path) -> None:
    model = build(tmp_path, weights())
    assert (tmp_path / "llm.onnx").stat().st_size < 40_000
    outside = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert len(outside) == len(weights()) - 2  # the two embedding tables are read outside of the graph
    assert {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"} == {
        "llm.safetensors"
    }


def test_signature(tmp_path: Path) -> None:
    model = build(tmp_path, weights())
    inputs = {value.name for value in model.graph.input}
    assert {"embeddings", "seqlens_k", "total_sequence_length", "last", "past_key_0", "past_value_1"} <= inputs
    outputs = {value.name: value for value in model.graph.output}
    assert outputs["log_probs"].type.tensor_type.shape.dim[1].dim_value == 65
    assert {"present_key_0", "present_value_0", "present_key_1", "present_value_1", "log_probs"} == set(outputs)


@pytest.mark.parametrize(
    ("precision", "bits"),
    [("int8", {8: 15}), ("int4", {4: 15}), ("mixed", {8: 9, 4: 6})],
)
def test_precisions(tmp_path: Path, precision: str, bits: dict[int, int]) -> None:
    """Seven matrices in each of two layers, and the head."""
    model = build(tmp_path, quantise_llm(weights(), precision))
    nodes = operations(model, "MatMulNBits")
    counts: dict[int, int] = {}
    for node in nodes:
        attributes = {a.name: a.i for a in node.attribute}
        counts[attributes["bits"]] = counts.get(attributes["bits"], 0) + 1
        assert attributes["accuracy_level"] == 4
    assert counts == bits
    assert not operations(model, "FusedMatMul")


def test_only_linear_layers_are_quantised() -> None:
    before = weights()
    after = quantise_llm(before, "mixed")
    for name in ("speech_embedding.weight", "llm.model.model.norm.weight"):
        np.testing.assert_array_equal(after[name], before[name])
    name = "llm.model.model.layers.0.mlp.down_proj.weight"
    assert name not in after
    restored = dequantise(after[f"{name}.q"], after[f"{name}.scales"], 4, 96)
    assert np.abs(restored - before[name]).max() < 0.15 * np.abs(before[name]).max()


def test_unknown_precision() -> None:
    with pytest.raises(ConfigError, match="choose one of"):
        quantise_llm({}, "int2")


def test_a_layer_in_half_precision_is_widened(tmp_path: Path) -> None:
    model = build(tmp_path, {name: tensor.astype(np.float16) for name, tensor in weights().items()})
    assert len(operations(model, "Cast")) == len(weights()) - 2


def test_tensors_of_another_configuration(tmp_path: Path) -> None:
    deeper = CONFIG.model_copy(update={"qwen": CONFIG.qwen.model_copy(update={"num_layers": 3})})
    with pytest.raises(ModelError, match=r"lacks the tensor 'llm\.model\.model\.layers\.2"):
        build(tmp_path, weights(), deeper)
    wider = CONFIG.model_copy(update={"qwen": CONFIG.qwen.model_copy(update={"hidden_size": 512})})
    with pytest.raises(ModelError, match="inputs"):
        build(tmp_path, quantise_llm(weights(), "int8"), wider)


def test_only_wide_layers_have_large_blocks_of_four_bits() -> None:
    name, random = "llm.model.model.layers.0.mlp.up_proj.weight", np.random.default_rng(0)
    for inputs, precision, blocks in ((NARROW, "int4", 4), (NARROW // 2, "int4", 8), (NARROW // 2, "int8", 2)):
        quantised = quantise_llm({name: random.standard_normal((3, inputs)).astype(np.float32)}, precision)
        assert quantised[f"{name}.scales"].shape == (3, blocks)
