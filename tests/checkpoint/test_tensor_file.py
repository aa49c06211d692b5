from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cosyvoice.checkpoint.tensor_file import TensorFile
from cosyvoice.errors import ModelError


def _write(path: Path, header: Any, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_what_the_library_writes_is_mapped(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "half": rng.standard_normal((3, 5)).astype(np.float16),
        "whole": rng.integers(-9, 9, (2, 1, 2)),
        "bytes": rng.integers(0, 255, 7).astype(np.uint8),
        "none": np.zeros((0, 4), np.float32),
    }
    save_file(arrays, tmp_path / "a.safetensors", {"made": "here"})
    file = TensorFile(tmp_path / "a.safetensors")
    assert set(file) == set(arrays) and file.metadata == {"made": "here"}
    for name, array in arrays.items():
        assert file.map(name).shape == array.shape
        np.testing.assert_array_equal(file.map(name), array)
    assert file.element_type("half") == "F16" and file.span("bytes")[1] == 7
    assert not file.map("half").flags.writeable
    with pytest.raises(ModelError, match="lacks the tensor 'other'"):
        file.map("other")


def test_types_without_a_counterpart_are_known_but_not_mapped(tmp_path: Path) -> None:
    path = _write(tmp_path / "a", {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, bytes(4))
    file = TensorFile(path)
    assert file.element_type("x") == "BF16"
    with pytest.raises(ModelError, match="BF16"):
        file.map("x")


def _entry(**changes: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    "header",
    [
        _entry(data_offsets=[0, 16], shape=[4]),
        _entry(data_offsets=[-8, 0]),
        _entry(data_offsets=[8, 0]),
        _entry(shape=[1 << 40, 1 << 40]),
        _entry(shape=[3]),
        _entry(shape=[-2]),
        _entry(shape=["2"]),
        _entry(data_offsets=[0]),
        {"x": {"shape": [2], "data_offsets": [0, 8]}},
        {"x": 1},
        {"__metadata__": 3},
        [1],
    ],
)
def test_hostile_headers(tmp_path: Path, header: Any) -> None:
    with pytest.raises(ModelError, match="no intact safetensors file"):
        TensorFile(_write(tmp_path / "bad", header, bytes(8)))


@pytest.mark.parametrize("content", [b"", b"\x05", b"\xff" * 8 + b"{}", (4).to_bytes(8, "little") + b"nope"])
def test_files_of_another_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ModelError, match=r"no intact safetensors file .*; convert the model again"):
        TensorFile(tmp_path / "bad", cure="convert the model again")
    with pytest.raises(ModelError, match="no intact"):
        TensorFile(tmp_path / "missing")
