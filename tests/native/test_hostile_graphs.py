"""Graphs whose weights lie elsewhere: what a graph may point to is its own directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from cosyvoice.engine.prompt_encoders import LazySession
from cosyvoice.errors import ModelError
from cosyvoice.native.runtime import Runtime

NUMBERS = np.arange(4, dtype=np.float32)


def write_graph(path: Path, location: str, length: int = NUMBERS.nbytes, offset: int = 0) -> Path:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    ends = [onnx.helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [tensor])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    for place in (tmp_path / "secret.bin", tmp_path / "model" / "own.bin"):
        NUMBERS.tofile(place)
    return tmp_path / "model"


def test_weights_in_its_own_directory_are_read(directory: Path) -> None:
    session = Runtime(1).session(write_graph(directory / "a.onnx", "own.bin"))
    np.testing.assert_array_equal(session.run(None, {"x": NUMBERS})[0], 2 * NUMBERS)


@pytest.mark.parametrize("location", ["../secret.bin", "sub/../../secret.bin", "ABSOLUTE", "absent.bin"])
def test_weights_outside_of_the_directory_are_refused(directory: Path, location: str) -> None:
    location = str(directory.parent / "secret.bin") if location == "ABSOLUTE" else location
    path = write_graph(directory / "a.onnx", location)
    with pytest.raises(ModelError, match=r"a\.onnx"):
        Runtime(1).session(path)
    with pytest.raises(ModelError, match=r"a\.onnx"):
        LazySession(path, 1).run(NUMBERS)


@pytest.mark.parametrize(("length", "offset"), [(1 << 40, 0), (16, 1 << 40), (16, 8)])
def test_weights_beyond_their_file_are_refused(directory: Path, length: int, offset: int) -> None:
    path = write_graph(directory / "a.onnx", "own.bin", length, offset)
    with pytest.raises(ModelError, match=r"a\.onnx"):
        Runtime(1).session(path)
