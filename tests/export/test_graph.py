from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto
from safetensors.numpy import save_file

from cosyvoice.errors import ModelError
from cosyvoice.export.graph import GraphBuilder, TensorFile


@pytest.fixture
def tensors(tmp_path: Path) -> TensorFile:
    rng = np.random.default_rng(0)
    arrays = {
        "half": rng.standard_normal((4, 3)).astype(np.float16),
        "single": rng.standard_normal(4).astype(np.float32),
        "wide": rng.integers(0, 9, (2, 2)),
    }
    save_file(arrays, tmp_path / "weights.safetensors")
    return TensorFile(tmp_path / "weights.safetensors")


def test_the_header_tells_types_shapes_and_places(tensors: TensorFile) -> None:
    assert tensors.shape("half") == [4, 3]
    assert tensors.type("half") == TensorProto.FLOAT16
    assert tensors.type("wide") == TensorProto.INT64
    offset, length = tensors.span("single")
    assert length == 16
    stored = np.frombuffer(tensors.path.read_bytes()[offset : offset + length], np.float32)
    assert np.isfinite(stored).all() and len(stored) == 4
    assert "half" in tensors and "other" not in tensors
    with pytest.raises(ModelError, match="lacks the tensor 'other'"):
        tensors.span("other")


def test_files_that_are_no_safetensors(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"\x05")
    with pytest.raises(ModelError, match="no intact safetensors"):
        TensorFile(tmp_path / "bad")


def test_a_graph_reads_its_weights_from_the_file(tensors: TensorFile, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    builder = GraphBuilder("test", tensors)
    x = builder.input("x", ["time", 3])
    product = builder.node("MatMul", x, builder.node("Transpose", builder.weight("half"), perm=[1, 0]))
    total = builder.add(product, builder.weight("single"))
    builder.output(builder.multiply(total, builder.constant(2.0)), "y", ["time", 4])
    builder.save(tmp_path / "test.onnx", {"made": "here"})
    assert (tmp_path / "test.onnx").stat().st_size < 2000

    session = onnxruntime.InferenceSession(str(tmp_path / "test.onnx"))
    given = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    weights = load_file(tensors.path)
    expected = 2 * (given @ weights["half"].astype(np.float32).T + weights["single"])
    np.testing.assert_allclose(session.run(None, {"x": given})[0], expected, atol=1e-6)
    assert session.get_modelmeta().custom_metadata_map == {"made": "here"}


def test_equal_constants_and_weights_are_kept_once(tensors: TensorFile) -> None:
    builder = GraphBuilder("test", tensors)
    assert builder.constant([1, 2]) == builder.constant([1, 2])
    assert builder.constant([1, 2]) != builder.ints(1, 2)
    assert builder.weight("half") == builder.weight("half") != builder.raw("half")
    assert builder.weight("single") == "single"


def test_a_graph_lies_beside_its_weights(tensors: TensorFile, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(ModelError, match="beside"):
        GraphBuilder("test", tensors).save(tmp_path / "other" / "test.onnx")
