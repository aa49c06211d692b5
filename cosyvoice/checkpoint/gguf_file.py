"""GGUF files as named arrays: quantised matrices stay the blocks they are stored as until somebody asks for numbers.

So a file can be copied, or laid out anew for another engine, without a rounding in between. Written are F32, F16, Q8_0
and Q4_0; every type that the `gguf` package can turn into numbers is read, the K-quants among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quant_shape_from_byte_shape, quantize
from numpy.typing import NDArray

from cosyvoice.checkpoint.gguf_header import read_gguf_header
from cosyvoice.errors import ConfigError, ModelError, OutputError

BLOCK = 32
"""Weights of a block of Q8_0 and Q4_0; the rows of a matrix must hold whole blocks."""
BLOCK_TYPES = ("Q8_0", "Q4_0")
"""The types that are written in blocks: eight or four bits a weight and a scale in half precision a block."""
MAX_NAME = 63
"""Bytes of a tensor's name that every reader accepts."""
Value = str | int | float | bool | list[str] | list[int] | list[float]
_PLAIN = {GGMLQuantizationType[name] for name in ("F16", "F32", "F64", "I8", "I16", "I32", "I64")}


@dataclass(frozen=True, eq=False)
class Blocks:
    """A matrix [out, in] quantised to `type` ("Q8_0", ...): `data` [out, bytes of a row] uint8."""

    type: str
    data: NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix that the blocks stand for."""
        return tuple(quant_shape_from_byte_shape(self.data.shape, GGMLQuantizationType[self.type]))

    def numbers(self) -> NDArray[np.float32]:
        """The matrix in single precision. Raises `ModelError` for a type that cannot be turned into numbers."""
        try:
            result: NDArray[np.float32] = dequantize(self.data, GGMLQuantizationType[self.type])
        except (NotImplementedError, ValueError) as error:
            raise ModelError(
                f"weights of the type {self.type} cannot be read ({error}); make the file again as F16, Q8_0 or Q4_0"
            ) from None
        return result


Tensor = NDArray[Any] | Blocks


def numbers(tensor: Tensor) -> NDArray[Any]:
    """A tensor as it is, or the matrix that its blocks stand for."""
    return tensor.numbers() if isinstance(tensor, Blocks) else tensor


def quantised(matrix: NDArray[np.floating], kind: str) -> Blocks:
    """`matrix` [out, in] as blocks of `kind` ("Q8_0" or "Q4_0").

    Raises `ConfigError` for another kind, and `ModelError` for a matrix whose rows do not hold whole blocks or that is
    not finite.
    """
    if kind not in BLOCK_TYPES:
        raise ConfigError(f"no blocks of type {kind!r} are written; choose one of {', '.join(BLOCK_TYPES)}")
    if not fits_blocks(matrix):
        raise ModelError(f"a tensor of shape {matrix.shape} has no rows of whole blocks of {BLOCK}; keep it as F16")
    if not np.isfinite(matrix).all():
        raise ModelError("a weight to be quantised is not finite; the model is damaged, so take an intact copy of it")
    data = quantize(np.ascontiguousarray(matrix, np.float32), GGMLQuantizationType[kind])
    return Blocks(kind, data)


def fits_blocks(tensor: NDArray[Any]) -> bool:
    """Whether a tensor is a matrix whose rows hold whole blocks."""
    return tensor.ndim == 2 and tensor.size > 0 and tensor.shape[1] % BLOCK == 0


class GgufFile:
    """A GGUF file opened for reading; tensors are mapped until they are asked for.

    Attributes:
        metadata: every key with its value.
        names: of the tensors, in the order of the file.

    Raises `ModelError` for a file that is missing, damaged, or no GGUF.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ModelError(f"{path} is missing; copy the complete model directory")
        # The package believes every count that a file declares.
        read_gguf_header(self.path)
        try:
            reader = GGUFReader(self.path)
            self.metadata: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
            self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        except (
            ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError,
        ) as error:  # fmt: skip
            raise ModelError(f"{path} is no intact GGUF file ({error}); download or make it again") from None
        self.names = list(self._tensors)

    def tensor(self, name: str) -> Tensor:
        """A tensor as it is stored: numbers, or the blocks of a matrix.

        Raises `ModelError` for one that the file does not hold.
        """
        if name not in self._tensors:
            raise ModelError(f"{self.path} lacks the tensor {name!r}; it belongs to another model")
        stored = self._tensors[name]
        # Dimensions are listed from the innermost one outwards.
        if stored.tensor_type in _PLAIN:
            shape = tuple(int(size) for size in reversed(stored.shape.tolist()))
            return np.asarray(stored.data).reshape(shape)
        return Blocks(stored.tensor_type.name, np.asarray(stored.data))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {name: self.tensor(name) for name in self.names}

    def text(self, key: str) -> str | None:
        """The text under `key` of the metadata; None where there is none."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None


def write_gguf(path: Path, architecture: str, metadata: Mapping[str, Value], tensors: Mapping[str, Tensor]) -> None:
    """Write a GGUF file: `metadata` under its keys, and `tensors` as they are, blocks as blocks.

    Whole numbers of the metadata are written as uint32, lists of them as int32, the types in which readers expect
    sizes, and kinds of tokens.

    Raises:
        ModelError: a tensor's name is too long for other readers, or its type has no place in the format.
        OutputError: the file cannot be written.
    """
    writer = GGUFWriter(None, architecture)
    for key, value in metadata.items():
        _add_value(writer, key, value)
    for name, tensor in tensors.items():
        if len(name.encode()) > MAX_NAME:
            raise ModelError(f"the name {name!r} has more than {MAX_NAME} bytes, which GGUF cannot hold; shorten it")
        if isinstance(tensor, Blocks):
            writer.add_tensor(name, np.ascontiguousarray(tensor.data), raw_dtype=GGMLQuantizationType[tensor.type])
            continue
        try:
            writer.add_tensor(name, np.ascontiguousarray(tensor))
        except ValueError:
            raise ModelError(f"{name!r} is of type {tensor.dtype}, which GGUF does not hold; convert it") from None
    path = Path(path)
    # Written beside its place: the tensors may be mapped from the very file that is replaced.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error}); is the disk full?") from None
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)


def _add_value(writer: GGUFWriter, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_key_value(key, value, GGUFValueType.STRING)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, value)
