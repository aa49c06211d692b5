"""Safetensors files that claim more than they hold, through every reader of the package."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosyvoice.checkpoint.inspection import inspect_file
from cosyvoice.checkpoint.tensor_file import TensorFile
from cosyvoice.checkpoint.weights import read_weights
from cosyvoice.errors import CosyVoiceError
from cosyvoice.voice.voice import FORMAT, Voice

READERS: tuple[Callable[[Path], Any], ...] = (TensorFile, read_weights, Voice.load, inspect_file)


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(shape: list[int], end: int, begin: int = 0, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "header",
    [
        {"mel": entry([1 << 40, 1 << 20], 16)},
        {"mel": entry([1 << 40], 4 << 40)},
        {"mel": entry([4], 16, begin=-16)},
        {"mel": entry([-4], 16)},
        {"mel": entry([1 << 62, 4], 16)},
        {"mel": {"dtype": "F32"}},
        {"mel": 3},
        [1],
        b"{",
        b"[" * 100_000,
    ],
)
def test_false_claims_are_refused(read: Callable[[Path], Any], header: Any, tmp_path: Path) -> None:
    if isinstance(header, dict):
        header = {"__metadata__": {"format": FORMAT, "voice": "{}"}, **header}
    path = write(tmp_path / "a.safetensors", header, bytes(16))
    start = time.perf_counter()
    with pytest.raises(CosyVoiceError, match=str(path)):
        read(path)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 1 << 30, 3])
def test_false_lengths_of_headers_are_refused(read: Callable[[Path], Any], length: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {"mel": entry([4], 16)}, bytes(16), length)
    with pytest.raises(CosyVoiceError, match=str(path)):
        read(path)
