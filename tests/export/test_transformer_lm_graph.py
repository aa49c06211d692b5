"""The graphs of the first generation's language model: their signatures, and that they hold no weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from safetensors.numpy import save_file

from cosyvoice.config.model import EncoderConfig, TransformerLMConfig
from cosyvoice.errors import ModelError
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.llm_graph import build_llm, quantise_llm
from cosyvoice.llm.transformer_lm import TransformerLM

SMALL = {"attention_heads": 2, "linear_units": 48, "num_blocks": 2, "static_chunk_size": 1}
CONFIG = TransformerLMConfig(
    text_token_size=50,
    speech_token_size=40,
    speaker_embedding_dim=6,
    text_encoder=EncoderConfig(input_size=12, output_size=24, **SMALL),
    llm=EncoderConfig(layer="transformer", input_layer="linear_legacy", input_size=32, output_size=32, **SMALL),
)


def weights() -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in TransformerLM(CONFIG).state_dict().items()}


def build(directory: Path, tensors: dict[str, np.ndarray]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    save_file(tensors, directory / "llm.safetensors")
    path = build_llm(TensorFile(directory / "llm.safetensors"), CONFIG, directory)
    return tuple(onnx.load(p, load_external_data=False) for p in (path, directory / "text_encoder.onnx"))


def count(model: onnx.ModelProto, kind: str) -> int:
    return sum(node.op_type == kind for node in model.graph.node)


def test_signatures(tmp_path: Path) -> None:
    decoder, text_encoder = build(tmp_path, weights())
    inputs = {value.name for value in decoder.graph.input}
    state = {f"{name}_{i}" for name in ("past_key", "past_value", "distances") for i in range(2)}
    assert inputs == {"embeddings", "seqlens_k", "total_sequence_length", "last", *state}
    outputs = {value.name: value for value in decoder.graph.output}
    assert outputs["log_probs"].type.tensor_type.shape.dim[1].dim_value == 41
    assert [value.name for value in text_encoder.graph.input] == ["ids"]
    assert [value.name for value in text_encoder.graph.output] == ["encoded"]


def test_weights_stay_in_their_file(tmp_path: Path) -> None:
    tensors = weights()
    named: set[str] = set()
    for model in build(tmp_path, tensors):
        named |= {t.name for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL}
        assert all(np.prod(t.dims) <= 32 for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL)
    # Tables, the speaker's layer and the decoder's projections of distances are read outside of the graphs.
    outside = {name for name in tensors if name.startswith(("llm_emb", "speech_emb", "spk_embed"))}
    outside |= {f"llm.encoders.{i}.self_attn.linear_pos.weight" for i in range(2)}
    assert named == tensors.keys() - outside


@pytest.mark.parametrize("precision", ["int8", "int4", "mixed"])
def test_layers_and_head_are_quantised(tmp_path: Path, precision: str) -> None:
    """Six matrices in each of two layers, and the head."""
    decoder, text_encoder = build(tmp_path, quantise_llm(weights(), precision))
    assert count(decoder, "MatMulNBits") == 13
    assert count(text_encoder, "MatMulNBits") == 12


def test_tensors_of_another_configuration(tmp_path: Path) -> None:
    tensors = weights()
    del tensors["text_encoder.encoders.1.norm_ff.bias"]
    with pytest.raises(ModelError, match=r"lacks the tensor 'text_encoder\.encoders\.1\.norm_ff\.bias'"):
        build(tmp_path, tensors)
