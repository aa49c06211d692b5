from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import save_file

from cosyvoice.export.graph import GraphBuilder, TensorFile
from cosyvoice.export.linear import linear
from cosyvoice.export.quantise import quantise_linear

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((5, 32)).astype(np.float32)
BIAS = 10 * RANDOM.standard_normal(5).astype(np.float32)
X = RANDOM.standard_normal((2, 3, 32)).astype(np.float32)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("bits", "tolerance"), [(32, 1e-5), (16, 2e-2), (8, 0.3), (4, 2.5)])
def test_any_precision_and_a_bias_if_there_is_one(tmp_path: Path, bits: int, tolerance: float, bias: bool) -> None:
    tensors = {"layer.bias": BIAS} if bias else {"other": BIAS}
    if bits < 16:
        tensors["layer.weight.q"], tensors["layer.weight.scales"] = quantise_linear(WEIGHT, bits, 32)
    else:
        tensors["layer.weight"] = WEIGHT.astype(np.float16) if bits == 16 else WEIGHT
    save_file(tensors, tmp_path / "w.safetensors")
    graph = GraphBuilder("g", TensorFile(tmp_path / "w.safetensors"))
    graph.output(linear(graph, graph.input("x", [2, 3, 32]), "layer", 32), "y", [2, 3, 5])
    graph.save(tmp_path / "g.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"))
    found = session.run(None, {"x": X})[0]
    np.testing.assert_allclose(found, X @ WEIGHT.T + (BIAS if bias else 0), rtol=0, atol=tolerance)
