"""Encoders as graphs, with plain attention in the place of the caller's, against the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from safetensors.numpy import save_file

from cosyvoice.config.model import EncoderConfig
from cosyvoice.export.encoder_graph import EncoderGraph
from cosyvoice.export.graph import MICROSOFT, GraphBuilder, TensorFile
from cosyvoice.transformer.encoder import Encoder

CONFORMER = EncoderConfig(input_size=6, output_size=16, attention_heads=2, linear_units=12, num_blocks=2)
TRANSFORMER = CONFORMER.model_copy(update={"layer": "transformer", "input_layer": "linear_legacy"})


@pytest.mark.parametrize("config", [CONFORMER, TRANSFORMER], ids=["conformer", "transformer"])
def test_full_attention_equals_the_reference(tmp_path: Path, config: EncoderConfig) -> None:
    torch.manual_seed(0)
    encoder, time = Encoder(config).eval(), 7
    save_file({f"e.{k}": v.numpy() for k, v in encoder.state_dict().items()}, tmp_path / "w.safetensors")
    graph = GraphBuilder("g", TensorFile(tmp_path / "w.safetensors"))
    parts = EncoderGraph(graph, "e", config)
    # Distances 6 .. -6, and for each pair where its own is among them.
    distances = graph.constant(np.arange(time - 1, -time, -1, dtype=np.float32))
    pairs = (time - 1) - np.arange(time)[:, None] + np.arange(time)
    places = graph.constant(pairs[None, None], np.int64)

    def attend(query: str, key: str, value: str, bias: str) -> str:
        operands = (query, key, value, "", "", bias)
        return str(graph.node("MultiHeadAttention", *operands, domain=MICROSOFT, num_heads=parts.heads))

    x = parts.embed(graph.input("x", [1, time, 6]))
    for index in range(config.num_blocks):
        name = f"encoders.{index}"
        x = parts.layer(x, name, parts.distances(name, parts.sinusoids(distances)), places, attend)
    graph.output(parts.norm(x, "after_norm", 1e-5), "y", [1, time, 16], TensorProto.FLOAT)
    graph.save(tmp_path / "g.onnx")
    rows = torch.randn(1, time, 6)
    found = onnxruntime.InferenceSession(str(tmp_path / "g.onnx")).run(None, {"x": rows.numpy()})[0]
    with torch.inference_mode():
        np.testing.assert_allclose(found, encoder(rows), rtol=0, atol=1e-5)
