from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cosyvoice.checkpoint.gguf_file import Blocks, quantised
from cosyvoice.errors import ConfigError
from cosyvoice.export.gguf_blocks import BITS, bits_of, laid_out, runnable_llm
from cosyvoice.export.quantise import dequantise, quantised_format


def _matrix(rows: int = 5, columns: int = 96) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_both_layouts_stand_for_the_same_numbers(kind: str) -> None:
    blocks = quantised(_matrix(), kind)
    q, scales = laid_out(blocks)
    assert quantised_format(list(q.shape), 96) == (BITS[kind], 32)
    np.testing.assert_array_equal(dequantise(q, scales.astype(np.float32), BITS[kind], 96), blocks.numbers())
    assert q.nbytes + scales.nbytes == blocks.data.nbytes, "nothing is expanded"


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_the_engine_multiplies_by_those_numbers(kind: str) -> None:
    blocks = quantised(_matrix(), kind)
    q, scales = laid_out(blocks)
    weights = [numpy_helper.from_array(q, "q"), numpy_helper.from_array(scales.astype(np.float32), "scales")]
    node = helper.make_node(
        "MatMulNBits", ["x", "q", "scales"], ["y"], domain="com.microsoft", K=96, N=5, bits=BITS[kind], block_size=32
    )
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 96), ("y", 5))]
    graph = helper.make_graph([node], "test", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    x = np.random.default_rng(1).standard_normal((1, 96)).astype(np.float32)
    y = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(y, x @ blocks.numbers().T, rtol=1e-4, atol=1e-4)


def test_only_what_the_graph_multiplies_by_stays_in_blocks() -> None:
    layer = "llm.model.model.layers.0"
    k_quants = Blocks("Q4_K", np.full((2, 144), 3, np.uint8))
    tensors = {
        f"{layer}.self_attn.q_proj.weight": quantised(_matrix(), "Q8_0"),
        f"{layer}.mlp.up_proj.weight": quantised(_matrix(), "Q4_0"),
        f"{layer}.mlp.down_proj.weight": k_quants,
        "llm.model.model.embed_tokens.weight": quantised(_matrix(), "Q8_0"),
        f"{layer}.input_layernorm.weight": _matrix()[0],
    }
    weights = runnable_llm(tensors)
    assert {name for name in weights if name.endswith((".q", ".scales"))} == {
        f"{layer}.{part}.weight.{leaf}" for part in ("self_attn.q_proj", "mlp.up_proj") for leaf in ("q", "scales")
    }
    np.testing.assert_array_equal(weights[f"{layer}.mlp.down_proj.weight"], k_quants.numbers())
    assert bits_of(tensors) == {4, 8}
    with pytest.raises(ConfigError, match="Q4_K cannot be run"):
        laid_out(k_quants)
