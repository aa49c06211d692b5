"""Safetensors files read where they lie: the header tells types, shapes and places; the bytes are mapped, not read.

The header is checked as a whole before anything is mapped, so that a truncated or hostile file is refused by its
numbers alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from cosyvoice.errors import ModelError, OutputError

NUMPY_TYPES: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
"""The element types that NumPy has; a file may hold others (BF16), which cannot be mapped as numbers."""
_SIZES = {**{name: np.dtype(kind).itemsize for name, kind in NUMPY_TYPES.items()}, "BF16": 2}
MAX_HEADER = 100_000_000
"""Bytes of a header; the format allows no more."""


class TensorFile:
    """The tensors of a safetensors file.

    Raises `ModelError` where `path` is no intact safetensors file. `cure` ends that message: what to do about it.
    """

    def __init__(self, path: Path, cure: str = "make it again") -> None:
        self.path = Path(path)
        try:
            self._start, header = _read_header(self.path)
            self.metadata = {str(key): str(value) for key, value in header.pop("__metadata__", {}).items()}
            self._entries: dict[str, dict[str, Any]] = header
            room = self.path.stat().st_size - self._start
            for name, entry in header.items():
                _check_entry(name, entry, room)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{path} is no intact safetensors file ({error}); {cure}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def shape(self, name: str) -> list[int]:
        """Raises `ModelError` for a tensor that the file does not hold."""
        return list(self._entry(name)["shape"])

    def element_type(self, name: str) -> str:
        """The format's name of a tensor's element type, as "F16"."""
        return str(self._entry(name)["dtype"])

    def span(self, name: str) -> tuple[int, int]:
        """Offset in the file and length of a tensor, in bytes."""
        begin, end = self._entry(name)["data_offsets"]
        return self._start + begin, end - begin

    def map(self, name: str) -> NDArray[Any]:
        """A tensor, mapped into memory and not to be written to.

        Raises `ModelError` for a tensor that the file does not hold, or whose type NumPy has not.
        """
        kind, shape = self.element_type(name), tuple(self.shape(name))
        if kind not in NUMPY_TYPES:
            raise ModelError(f"{self.path}: {name!r} has elements of type {kind}, which cannot be mapped; convert it")
        offset, length = self.span(name)
        # An empty map cannot be made.
        return np.memmap(self.path, NUMPY_TYPES[kind], "r", offset, shape) if length else np.empty(shape)

    def _entry(self, name: str) -> dict[str, Any]:
        if name not in self._entries:
            raise ModelError(f"{self.path} lacks the tensor {name!r}; it does not belong to this configuration")
        return self._entries[name]


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file of arrays as they are. Raises `OutputError` where that cannot be done."""
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, dict(metadata or {}))
        # The library writes files that only their owner may read; weights are shared like any other file.
        path.chmod(0o644)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} cannot be written ({error}); is the disk full?") from None


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the data begin, and what the header says."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > min(MAX_HEADER, path.stat().st_size):
            raise ValueError(f"a header of {size} bytes")
        header = json.loads(file.read(size))
    if not isinstance(header, dict):
        raise ValueError("the header is no table")
    return 8 + size, header


def _check_entry(name: str, entry: dict[str, Any], room: int) -> None:
    """Raises `ValueError` where a tensor does not lie in `room` bytes, or its shape tells of another length."""
    (begin, end), shape = entry["data_offsets"], entry["shape"]
    whole = all(isinstance(number, int) and number >= 0 for number in (begin, end, *shape))
    if not whole or not begin <= end <= room:
        raise ValueError(f"tensor {name!r} lies outside of the file")
    if entry["dtype"] in _SIZES and math.prod(shape) * _SIZES[entry["dtype"]] != end - begin:
        raise ValueError(f"tensor {name!r} has {end - begin} bytes, which do not make {shape} of {entry['dtype']}")
