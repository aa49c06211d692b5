from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from cosyvoice.checkpoint.gguf_file import Blocks, GgufFile, fits_blocks, numbers, quantised, write_gguf
from cosyvoice.errors import ConfigError, ModelError, OutputError


def _matrix(rows: int = 6, columns: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    tensors = {
        "half": _matrix().astype(np.float16),
        "vector": _matrix()[0],
        "kernel": np.random.default_rng(1).standard_normal((4, 3, 5)).astype(np.float32),
        "whole": np.arange(6, dtype=np.int64).reshape(2, 3),
        "eight": quantised(_matrix(), "Q8_0"),
        "four": quantised(_matrix(), "Q4_0"),
    }
    metadata = {"a.text": "ä", "a.count": 7, "a.ratio": 0.5, "a.flag": True, "a.names": ["x", "[y]"], "a.kinds": [1, 3]}
    write_gguf(tmp_path / "a.gguf", "test", metadata, tensors)
    file = GgufFile(tmp_path / "a.gguf")
    assert file.names == list(tensors) and file.text("general.architecture") == "test"
    assert {key: file.metadata[key] for key in metadata} == metadata
    for name, expected in tensors.items():
        stored = file.tensor(name)
        if isinstance(expected, Blocks):
            assert isinstance(stored, Blocks) and stored.type == expected.type and stored.shape == (6, 64)
            np.testing.assert_array_equal(stored.data, expected.data)
        else:
            assert isinstance(stored, np.ndarray) and stored.dtype == expected.dtype
            np.testing.assert_array_equal(stored, expected)
    with pytest.raises(ModelError, match="lacks the tensor 'other'"):
        file.tensor("other")


def test_blocks_stand_for_the_matrix() -> None:
    matrix = _matrix()
    for kind, bound in (("Q8_0", 0.01), ("Q4_0", 0.16)):
        restored = quantised(matrix, kind).numbers()
        error = np.sqrt(np.mean((restored - matrix) ** 2) / np.mean(matrix**2))
        assert 0 < error < bound
        # Blocks of what blocks stand for are the same blocks.
        if kind == "Q8_0":
            np.testing.assert_array_equal(quantised(restored, kind).numbers(), restored)
    np.testing.assert_array_equal(numbers(matrix), matrix)


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "BF16"])
def test_other_types_are_read_as_numbers(tmp_path: Path, kind: str) -> None:
    """Blocks of random bytes, with scales that are finite, are numbers to this reader as to the package."""
    quantisation = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[quantisation]
    data = np.random.default_rng(2).integers(0, 60, (3, 256 // block * size)).astype(np.uint8)
    write_gguf(tmp_path / "k.gguf", "test", {}, {"x": Blocks(kind, data)})
    stored = GgufFile(tmp_path / "k.gguf").tensor("x")
    assert isinstance(stored, Blocks) and stored.type == kind and stored.shape == (3, 256)
    np.testing.assert_array_equal(stored.numbers(), dequantize(data, quantisation))
    assert np.isfinite(stored.numbers()).all()


def test_what_cannot_be_quantised() -> None:
    with pytest.raises(ConfigError, match="no blocks of type 'Q4_K'"):
        quantised(_matrix(), "Q4_K")
    with pytest.raises(ModelError, match="whole blocks"):
        quantised(_matrix(columns=48), "Q8_0")
    damaged = _matrix()
    damaged[0, 0] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        quantised(damaged, "Q8_0")
    assert not fits_blocks(_matrix()[0]) and not fits_blocks(np.zeros((0, 32), np.float32))


def test_what_the_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="63 bytes"):
        write_gguf(tmp_path / "a.gguf", "test", {}, {"x" * 64: _matrix()})
    with pytest.raises(ModelError, match="complex128"):
        write_gguf(tmp_path / "a.gguf", "test", {}, {"x": np.zeros(2, np.complex128)})
    with pytest.raises(OutputError, match="cannot be written"):
        write_gguf(tmp_path / "none" / "a.gguf", "test", {}, {"x": _matrix()})


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is missing"):
        GgufFile(tmp_path / "none.gguf")
    write_gguf(
        tmp_path / "good.gguf", "test", {"a.names": ["x", "y"]}, {"x": _matrix(), "y": quantised(_matrix(), "Q8_0")}
    )
    good = (tmp_path / "good.gguf").read_bytes()
    huge = (1 << 62).to_bytes(8, "little")
    many = good[:8] + huge + good[16:]
    for content in (b"", b"GGUF", b"nope" * 9, good[:60], good[:-64], many, good[:16] + huge + good[24:]):
        (tmp_path / "bad.gguf").write_bytes(content)
        with pytest.raises(ModelError, match="no intact GGUF file"):
            GgufFile(tmp_path / "bad.gguf")
