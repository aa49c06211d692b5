from __future__ import annotations

import struct
import time
from pathlib import Path

import numpy as np
import pytest

from cosyvoice.checkpoint.gguf_header import read_gguf_header
from cosyvoice.checkpoint.pt_header import TensorHeader
from cosyvoice.errors import ModelError


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word)) + word.encode()


def header(tensors: int = 0, pairs: bytes = b"", count: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count) + pairs


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def test_a_file_of_the_gguf_package_is_read(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_uint32("qwen2.block_count", 24)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_tensor("x", np.zeros((3, 64), np.float32))
    blocks = gguf.quants.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("y", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_gguf_header(path)
    assert found.architecture == "qwen2" and found.metadata["qwen2.block_count"] == 24
    assert found.metadata["tokenizer.ggml.tokens"] == ["a", "b"] and found.metadata["some.numbers"] == [1, 2, 3]
    assert found.tensors == {"x": TensorHeader((3, 64), "F32", 768), "y": TensorHeader((2, 64), "Q8_0", 136)}
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="lies outside of the file"):
        read_gguf_header(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "more bytes than it has"),
        (b"GGML" + bytes(40), "does not begin as one"),
        (header(version=1) + bytes(40), "version 1"),
        (header(tensors=1 << 60) + bytes(100), "more entries"),
        (header(count=1 << 60) + bytes(100), "more entries"),
        (header(count=1, pairs=text("k") + struct.pack("<IIQ", 9, 4, 1 << 60)), "more values"),
        (header(count=1, pairs=text("k") + struct.pack("<IIQ", 9, 8, 1 << 60)), "more values"),
        (header(count=1, pairs=text("k") + struct.pack("<IIQIQIQ", 9, 9, 1, 9, 1, 9, 1) + bytes(99)), "lists within"),
        (header(count=1, pairs=text("k") + struct.pack("<IQ", 8, 1 << 60)), "a text of"),
        (header(count=1, pairs=struct.pack("<Q", 1 << 40) + bytes(40)), "a text of"),
        (header(count=1, pairs=text("k") + struct.pack("<I", 77) + bytes(9)), "unknown type 77"),
        (header(tensors=1) + tensor("w", (1 << 40, 1 << 20)), "lies outside"),
        (header(tensors=1) + tensor("w", (1,), offset=1 << 60), "lies outside"),
        (header(tensors=1) + tensor("w", (33,), kind=8) + bytes(99), "no whole blocks"),
        (header(tensors=1) + tensor("w", (1,) * 5), "5 dimensions"),
        (header(tensors=2) + tensor("w", (1,)) + tensor("w", (1,)) + bytes(99), "there twice"),
    ],
)
def test_claims_beyond_the_file_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(ModelError, match=message):
        read_gguf_header(tmp_path / "a.gguf")
    assert time.perf_counter() - start < 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is missing"):
        read_gguf_header(tmp_path / "a.gguf")
