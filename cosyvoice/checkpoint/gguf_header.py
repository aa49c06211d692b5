"""The header of a GGUF file, read without any package and with every number checked against the length of the file.

The layout is that of ggml's documentation (`docs/gguf.md` of the ggml project): magic, version, counts, pairs of key
and value, and a description of each tensor. A header may claim any number of entries; here each claim has to fit into
the bytes that are left before anything is read for it.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cosyvoice.checkpoint.pt_header import TensorHeader
from cosyvoice.errors import ModelError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_HEADER = 256 << 20
_MAX_NAME = 64 << 10
_MAX_DIMENSIONS = 4
_MAX_NESTING = 2
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# Number of a type: its name, weights of a block, bytes of a block.
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 30: ("BF16", 1, 2),
}  # fmt: skip


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says it holds."""

    version: int
    metadata: dict[str, Any]
    tensors: dict[str, TensorHeader]
    """Shapes are listed from the outermost dimension inwards, as everywhere else."""

    @property
    def architecture(self) -> str:
        """What the file calls its architecture; empty where it does not."""
        return str(self.metadata.get("general.architecture", ""))


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of the file `path`.

    Raises:
        ModelError: the file is missing, no GGUF, damaged, or claims more than its bytes can hold.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path} is missing; copy the complete model directory")
    try:
        with path.open("rb") as file:
            return _Header(file, path.stat().st_size).read()
    except (OSError, ValueError, struct.error, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is no intact GGUF file ({error}); download or make it again") from None


class _Header:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._left = min(size, _MAX_HEADER)

    def read(self) -> GgufHeader:
        if self._bytes(4) != _MAGIC:
            raise ValueError("it does not begin as one")
        (version,) = self._numbers("I")
        if version not in _VERSIONS:
            raise ValueError(f"version {version}, known are {', '.join(map(str, _VERSIONS))}")
        tensor_count, pair_count = self._numbers("QQ")
        # Every entry takes more than a dozen bytes.
        self._check(12 * (tensor_count + pair_count), "entries")
        metadata: dict[str, Any] = {}
        for _ in range(pair_count):
            name = self._text(_MAX_NAME)
            (kind,) = self._numbers("I")
            metadata[name] = self._value(kind)
        described = [self._tensor() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 1 << 16:
            raise ValueError(f"an alignment of {alignment}")
        start = -(-self._file.tell() // alignment) * alignment
        tensors: dict[str, TensorHeader] = {}
        for name, header, offset in described:
            if start + offset + header.nbytes > self._size:
                raise ValueError(f"tensor {name!r} of shape {header.shape} lies outside of the file")
            if name in tensors:
                raise ValueError(f"tensor {name!r} is there twice")
            tensors[name] = header
        return GgufHeader(version, metadata, tensors)

    def _tensor(self) -> tuple[str, TensorHeader, int]:
        name = self._text(_MAX_NAME)
        (dimensions,) = self._numbers("I")
        if dimensions > _MAX_DIMENSIONS:
            raise ValueError(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(reversed(self._numbers("Q" * dimensions)))
        kind, offset = self._numbers("IQ")
        # Types that came later have another size; the header is not the place to fail for them.
        label, block, size = _TYPES.get(kind, (f"type {kind}", 1, 0))
        count = math.prod(shape)
        if shape and shape[-1] % block:
            raise ValueError(f"tensor {name!r} has rows of {shape[-1]}, which are no whole blocks of {block}")
        return name, TensorHeader(shape, label, count // block * size), offset

    def _value(self, kind: int, nesting: int = 0) -> Any:
        if kind == _STRING:
            return self._text(self._left)
        if kind != _ARRAY:
            if kind not in _SCALARS:
                raise ValueError(f"a value of the unknown type {kind}")
            return self._numbers(_SCALARS[kind])[0]
        if nesting == _MAX_NESTING:
            raise ValueError("lists within lists within lists")
        inner, count = self._numbers("IQ")
        if inner in _SCALARS:
            self._check(count * struct.calcsize(_SCALARS[inner]), "values")
            return list(self._numbers(f"{count}{_SCALARS[inner]}"))
        self._check(8 * count, "values")
        return [self._value(inner, nesting + 1) for _ in range(count)]

    def _text(self, longest: int) -> str:
        (length,) = self._numbers("Q")
        if length > longest:
            raise ValueError(f"a text of {length} bytes")
        return self._bytes(length).decode("utf-8", errors="replace")

    def _numbers(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{layout}", self._bytes(struct.calcsize(f"<{layout}")))

    def _bytes(self, count: int) -> bytes:
        self._check(count, "bytes")
        self._left -= count
        data = self._file.read(count)
        if len(data) != count:
            raise ValueError("it ends too early")
        return data

    def _check(self, count: int, what: str) -> None:
        if count > self._left:
            raise ValueError(f"it claims more {what} than it has")
