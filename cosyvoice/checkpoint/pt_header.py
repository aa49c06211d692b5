"""What a `.pt` file says it holds, found without PyTorch, without unpickling anything real, and before memory is taken.

A `.pt` file is an archive of uncompressed records: one pickle, which names tensors and describes them, and a record of
bytes for each storage. The pickle's instructions are checked against the few that a table of tensors needs, and its
names of classes against the few that occur there. Only then is it run, with harmless stand-ins for those classes, and
every tensor it describes has to lie within the bytes that are there.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from cosyvoice.errors import ModelError

MAX_PICKLE = 32 << 20
"""Bytes of the pickle; that of the largest released model has a hundredth of it."""
_MAX_DIMENSIONS = 8
_BYTES = {
    "DoubleStorage": ("F64", 8), "FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1),
}  # fmt: skip
_OPCODES = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE GLOBAL "
    "REDUCE BUILD BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 SETITEM SETITEMS APPEND APPENDS"
)


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A tensor as a file describes it."""

    shape: tuple[int, ...]
    dtype: str
    """The element type in the spelling of safetensors, as "F16"."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str
    size: int
    count: int


class _Refused(ValueError):
    """Something that no table of tensors needs."""


def read_pt_header(path: Path) -> dict[str, Any]:
    """The table of a `.pt` file: names to `TensorHeader`, numbers, texts, or tables of those.

    Raises:
        ModelError: the file is missing, damaged, no archive of PyTorch, or holds anything but tensors in tables: code,
            compressed records, records that lead out of the archive, or tensors larger than their records.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path} is missing; copy the complete model directory")
    try:
        with zipfile.ZipFile(path) as archive:
            root, records = _records(archive, path.stat().st_size)
            instructions = archive.read(f"{root}data.pkl")
        _check_instructions(instructions)
        table = _Reader(instructions, records, root).load()
    except _Refused as error:
        raise ModelError(
            f"{path} holds more than tensors ({error}); it may be hostile, so take it from a source you trust"
        ) from None
    except Exception as error:  # whatever a damaged file makes of the reader, nothing was run or allocated
        raise ModelError(f"{path} is damaged or no file of PyTorch ({error}); download it again") from None
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise ModelError(f"{path} holds no table of named entries; it is not a checkpoint of a released model")
    return table


def _records(archive: zipfile.ZipFile, size: int) -> tuple[str, dict[str, int]]:
    """The common folder of all records, ending with a slash, and the length of each in bytes."""
    records: dict[str, int] = {}
    for info in archive.infolist():
        name = PurePosixPath(info.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in info.filename:
            raise _Refused(f"the record {info.filename!r} leads out of the archive")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > info.compress_size:
            raise _Refused(f"the record {info.filename!r} is compressed")
        if info.filename in records:
            raise _Refused(f"the record {info.filename!r} is there twice")
        records[info.filename] = info.file_size
    if sum(records.values()) > size:
        raise _Refused("the records are longer than the file")
    pickles = [name for name in records if name.endswith("data.pkl") and name.count("/") <= 1]
    if len(pickles) != 1:
        raise _Refused(f"{len(pickles)} pickles instead of one")
    root = pickles[0].removesuffix("data.pkl")
    if any(name.startswith((f"{root}code/", f"{root}constants.pkl")) for name in records):
        raise _Refused("it is a TorchScript program")
    if records[pickles[0]] > MAX_PICKLE:
        raise _Refused(f"a pickle of {records[pickles[0]]} bytes")
    return root, records


def _check_instructions(instructions: bytes) -> None:
    """Refuse instructions and classes that a table of tensors does not need, before one of them is followed."""
    known = frozenset(_OPCODES.split())
    for index, (opcode, argument, _) in enumerate(pickletools.genops(instructions)):
        if opcode.name not in known:
            raise _Refused(f"the pickle instruction {opcode.name}")
        if opcode.name == "GLOBAL":
            _stand_in(*str(argument).split(" ", 1))
        # A place in the memo that was not counted up to would make the memo as large as its number.
        if opcode.name in ("BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > index:
            raise _Refused("a memo with gaps")


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object
) -> TensorHeader:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or not all(type(number) is int and number >= 0 for number in numbers):
        raise _Refused("a tensor that is none")
    if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS:
        raise _Refused(f"a tensor of {len(size)} dimensions")
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if count else 0
    # An expanded tensor repeats its elements, so it takes any amount of memory as soon as it is copied.
    if count > storage.count or (count and last >= storage.count):
        raise _Refused(f"a tensor of shape {size} in a record of {storage.count} elements")
    return TensorHeader(size, storage.dtype, count * storage.size)


def _rebuild_parameter(tensor: TensorHeader, *rest: object) -> TensorHeader:
    return tensor


def _stand_in(module: str, name: str) -> Any:
    """What takes the place of a class or function that a pickle names."""
    functions: dict[tuple[str, str], Callable[..., Any]] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    }
    if (module, name) in functions:
        return functions[module, name]
    if module == "torch" and name in _BYTES:
        return name
    raise _Refused(f"the name {module}.{name}")


# The reader in C would give a pickle's memo whatever room its numbers ask for; that in Python counts.
class _Reader(pickle._Unpickler):
    stack: list[Any]

    def __init__(self, instructions: bytes, records: dict[str, int], root: str) -> None:
        super().__init__(io.BytesIO(instructions), encoding="utf-8")
        self._records, self._root = records, root

    def load_build(self) -> None:
        """State is given to tables only, which need none of it."""
        self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict:
            raise _Refused("state of something that has none")

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}

    def find_class(self, module: str, name: str) -> Any:
        return _stand_in(module, name)

    def persistent_load(self, pid: Any) -> _Storage:
        """The description of a storage: a mark, its type, the number of its record, its place, its elements."""
        kind, storage_type, key, _, count = pid
        if kind != "storage" or storage_type not in _BYTES or type(count) is not int or count < 0:
            raise _Refused(f"the reference {str(pid)[:80]}")
        dtype, size = _BYTES[storage_type]
        record = f"{self._root}data/{key}"
        if record not in self._records:
            raise _Refused(f"the record {record!r}, which is not there")
        if count * size > self._records[record]:
            raise _Refused(f"{count * size} bytes in the record {record!r} of {self._records[record]}")
        return _Storage(dtype, size, count)
