"""Block quantisation: what it restores, how its bytes lie, and that ONNX Runtime reads them the same way."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.export.quantise import (
    as_numbers,
    dequantise,
    fitting_block,
    quantisation_error,
    quantise_linear,
    quantised_format,
)


def random_matrix(outputs: int, inputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((outputs, inputs)).astype(np.float32)


@pytest.mark.parametrize(("bits", "block", "bound"), [(8, 128, 0.01), (8, 32, 0.007), (4, 128, 0.13), (4, 32, 0.1)])
def test_error_is_bounded(bits: int, block: int, bound: float) -> None:
    error = quantisation_error(random_matrix(64, 256), bits, block)
    assert bound / 3 < error < bound


def test_no_weight_is_off_by_more_than_a_level_at_eight_bits() -> None:
    weight = random_matrix(32, 128)
    q, scales = quantise_linear(weight, 8, 32)
    error = np.abs(dequantise(q, scales, 8, 128) - weight).reshape(32, 4, 32)
    assert (error <= np.abs(scales[..., None]) * 1.01).all()


def test_search_beats_the_scale_that_just_fits() -> None:
    weight = random_matrix(64, 256)
    blocks = weight.reshape(64, 8, 32)
    scales = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1) / -8
    plain = np.clip(np.rint(blocks / scales), -8, 7) * scales
    plain_error = np.sqrt(np.mean((plain - blocks) ** 2) / np.mean(blocks**2))
    assert quantisation_error(weight, 4, 32) < 0.97 * plain_error


def test_whole_multiples_of_a_power_of_two_survive_exactly() -> None:
    weight = np.tile(np.arange(-8, 8, dtype=np.float32) * 0.25, (3, 4))
    q, scales = quantise_linear(weight, 4, 16)
    np.testing.assert_array_equal(dequantise(q, scales, 4, 64), weight)
    # Two neighbours share a byte, the first in its low half.
    assert q[0, 0, 0] == (0 | 1 << 4)


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_stay_zero(bits: int) -> None:
    q, scales = quantise_linear(np.zeros((2, 64), np.float32), bits, 32)
    assert not dequantise(q, scales, bits, 64).any()


def test_half_precision_is_taken() -> None:
    weight = random_matrix(8, 64).astype(np.float16)
    restored = dequantise(*quantise_linear(weight, 8, 32), 8, 64)
    np.testing.assert_allclose(restored, weight.astype(np.float32), atol=0.02)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("inputs", [16, 24, 64, 200, 256])
def test_the_runtime_reads_the_layout(bits: int, block: int, inputs: int) -> None:
    """Any number of inputs, also one that fills no block."""
    weight = random_matrix(48, inputs)
    q, scales = quantise_linear(weight, bits, block)
    assert quantised_format(list(q.shape), inputs) == (bits, fitting_block(inputs, block))
    x = random_matrix(3, inputs, seed=1)
    expected = x @ dequantise(q, scales, bits, inputs).T
    assert np.abs(run_matmul(x, q, scales, bits, inputs) - expected).max() < 1e-3 * np.abs(expected).max()


def run_matmul(x: np.ndarray, q: np.ndarray, scales: np.ndarray, bits: int, inputs: int) -> np.ndarray:
    """The product in single precision (accuracy level 1), to compare the layout alone."""
    node = helper.make_node(
        "MatMulNBits",
        ["x", "q", "scales"],
        ["y"],
        domain="com.microsoft",
        K=inputs,
        N=len(q),
        bits=bits,
        block_size=q.shape[-1] * 8 // bits,
        accuracy_level=1,
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", len(q)])],
        [numpy_helper.from_array(q, "q"), numpy_helper.from_array(scales, "scales")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_refuses_what_cannot_be_quantised() -> None:
    with pytest.raises(ConfigError, match="choose one of"):
        quantise_linear(random_matrix(4, 32), 3, 32)
    with pytest.raises(ConfigError, match="power of two"):
        quantise_linear(random_matrix(4, 32), 8, 48)
    with pytest.raises(ModelError, match="keep it as it is"):
        quantise_linear(np.ones(8, np.float32), 8, 32)
    with pytest.raises(ModelError, match="not finite"):
        quantise_linear(np.full((4, 32), np.nan, np.float32), 8, 32)
    with pytest.raises(ModelError, match="fits no layer of 100 inputs"):
        quantised_format([4, 2, 128], 100)


def test_numbers_of_a_network() -> None:
    """Blocks, whole numbers with a scale an output, and what was never quantised."""
    blocks, plain = random_matrix(6, 40), random_matrix(3, 5, seed=1)
    q, scales = quantise_linear(blocks, 4, 32)
    levels = np.arange(10, dtype=np.int8).reshape(5, 2)
    weights = {"a.weight.q": q, "a.weight.scales": scales, "b.weight": plain, "c.scales": plain[0]}
    weights |= {"d.weight.q": levels, "d.weight.scales": np.array([0.5, 2.0], np.float32)}
    numbers = as_numbers(weights, {"a.weight": (6, 40), "b.weight": (3, 5), "d.weight": (2, 5)})
    assert set(numbers) == {"a.weight", "b.weight", "c.scales", "d.weight"}
    np.testing.assert_array_equal(numbers["a.weight"], dequantise(q, scales, 4, 40))
    assert numbers["b.weight"] is plain
    np.testing.assert_array_equal(numbers["d.weight"], [[0, 1, 2, 3, 4], [2, 6, 10, 14, 18]])
    with pytest.raises(ModelError, match="belongs to no matrix"):
        as_numbers(weights, {"a.weight": (6, 40)})
    with pytest.raises(ModelError, match="fits no layer of 400"):
        as_numbers(weights, {"a.weight": (6, 400), "d.weight": (2, 5)})
    with pytest.raises(ModelError, match=r"asks for \(7, 40\)"):
        as_numbers(weights, {"a.weight": (7, 40), "d.weight": (2, 5)})
