"""What a file is and holds, told from its header: no weights are loaded, and neither PyTorch nor ONNX is needed."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cosyvoice.checkpoint.belonging import Mismatch, Shapes, compare, explain, recognise
from cosyvoice.checkpoint.gguf_header import read_gguf_header
from cosyvoice.checkpoint.keys import is_weight, normalise_key
from cosyvoice.checkpoint.pt_header import TensorHeader, read_pt_header
from cosyvoice.checkpoint.tensor_file import TensorFile
from cosyvoice.errors import ModelError

READABLE = (".pt", ".safetensors", ".gguf", ".onnx")
"""Endings of the files that are known."""
_VOICE_FORMAT, _SPEAKERS = "cosyvoice-voice", "speakers"
_BODY_ARCHITECTURE = "qwen2"
# A serialised ONNX model begins with the number of its format, the field with this tag.
_ONNX_START = b"\x08"


@dataclass(frozen=True)
class FileReport:
    """What one file is and holds."""

    name: str
    kind: str
    """`weights`, `training checkpoint`, `speakers`, `voice`, `GGUF weights` or `ONNX graph`."""
    size: int
    """Bytes."""
    tensors: int = 0
    parameters: int = 0
    """Numbers in all tensors."""
    precision: str = ""
    """Element types and the part of the numbers that have each, the most common one first."""
    network: str = ""
    """`llm`, `flow` or `hift`, where the names of the tensors tell it."""
    generation: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    mismatch: Mismatch | None = None
    """What differs from the configuration beside it; None where there was nothing to compare with."""


def inspect_file(path: Path, expected: Mapping[str, Shapes] | None = None) -> FileReport:
    """What the file `path` is.

    Args:
        path: of one of the kinds in `READABLE`.
        expected: names and shapes that `llm`, `flow` and `hift` must have.

    Raises:
        ModelError: the file is missing, damaged, hostile, or nothing that this version knows.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path} does not exist; check the path")
    readers = {".pt": _pt, ".safetensors": _safetensors, ".gguf": _gguf, ".onnx": _onnx}
    if path.suffix not in readers:
        raise ModelError(
            f"{path} is nothing this version knows; give a model directory or one of {', '.join(READABLE)}"
        )
    return readers[path.suffix](path, expected or {})


def check_weights(path: Path, expected: Shapes, generation: str) -> None:
    """Refuse weights that are not those of a configuration, before a network is built for them.

    Args:
        path: of a `.pt` or `.safetensors` file.
        expected: names and shapes that the configuration asks for.
        generation: of the configuration, as "v3".

    Raises:
        ModelError: the file is missing, damaged or hostile, or a name or shape differs; the message tells the first
            one, which generation the weights look like, and what to do.
    """
    problem = explain(path, expected, {name: header.shape for name, header in weight_headers(path).items()}, generation)
    if problem is not None:
        raise ModelError(problem)


def weight_headers(path: Path) -> dict[str, TensorHeader]:
    """The weights that a `.pt` or `.safetensors` file describes, every name in its one spelling.

    Raises:
        ModelError: the file is missing, damaged or hostile.
    """
    if path.suffix == ".pt":
        table = read_pt_header(path)
        return {normalise_key(k): v for k, v in table.items() if isinstance(v, TensorHeader) and is_weight(k)}
    file = TensorFile(path, cure="download or make it again")
    return {name: TensorHeader(tuple(file.shape(name)), file.element_type(name), file.span(name)[1]) for name in file}


def _pt(path: Path, expected: Mapping[str, Shapes]) -> FileReport:
    table = read_pt_header(path)
    if table and all(isinstance(entries, dict) for entries in table.values()):
        return _speakers(path, {name: sorted(entries) for name, entries in table.items()})
    counters = {key: str(value) for key, value in table.items() if not isinstance(value, (TensorHeader, dict))}
    kind = "training checkpoint" if counters else "weights"
    return _weights(path, kind, weight_headers(path), expected, counters)


def _safetensors(path: Path, expected: Mapping[str, Shapes]) -> FileReport:
    headers = weight_headers(path)
    metadata = TensorFile(path).metadata
    if metadata.get("format", "").startswith(_VOICE_FORMAT):
        words = _object(metadata.get("voice", ""))
        notes = {key: str(value) for key, value in words.items() if value}
        return FileReport(path.name, "voice", path.stat().st_size, **_numbers(headers), notes=notes)
    if _SPEAKERS in metadata:
        names = _list(metadata[_SPEAKERS])
        entries = {
            str(name): sorted(key.split(".", 1)[1] for key in headers if key.startswith(f"{index}."))
            for index, name in enumerate(names)
        }
        return _speakers(path, entries)
    return _weights(path, "weights", headers, expected, metadata)


def _gguf(path: Path, expected: Mapping[str, Shapes]) -> FileReport:
    header = read_gguf_header(path)
    notes = {key: str(value) for key, value in header.metadata.items() if isinstance(value, (str, int, float))}
    # The body of a text model has the names of that architecture, which say nothing here.
    body = header.architecture == _BODY_ARCHITECTURE
    return _weights(path, "GGUF weights", header.tensors, {} if body else expected, notes)


def _onnx(path: Path, expected: Mapping[str, Shapes]) -> FileReport:
    with path.open("rb") as file:
        if file.read(1) != _ONNX_START:
            raise ModelError(f"{path} is no ONNX graph; download it again")
    return FileReport(path.name, "ONNX graph", path.stat().st_size)


def _weights(
    path: Path, kind: str, headers: Mapping[str, TensorHeader], expected: Mapping[str, Shapes], notes: Mapping[str, str]
) -> FileReport:
    shapes = {name: header.shape for name, header in headers.items()}
    network, generation = recognise(shapes) or ("", "")
    # The name of a file decides what it is loaded as, whatever its weights look like.
    place = path.name.split(".", 1)[0]
    wanted = expected.get(place)
    return FileReport(
        path.name, kind, path.stat().st_size, **_numbers(headers), network=network, generation=generation,
        notes=dict(notes), mismatch=None if wanted is None else compare(wanted, shapes),
    )  # fmt: skip


def _speakers(path: Path, entries: Mapping[str, list[str]]) -> FileReport:
    kinds = {name: "saved reference" if len(keys) > 1 else ", ".join(keys) for name, keys in entries.items()}
    return FileReport(path.name, "speakers", path.stat().st_size, notes=kinds)


def _numbers(headers: Mapping[str, TensorHeader]) -> dict[str, Any]:
    """Counts of tensors and their numbers, and the element types."""
    types: Counter[str] = Counter()
    for header in headers.values():
        types[header.dtype] += math.prod(header.shape)
    total = sum(types.values())
    parts = [f"{name} {count / max(total, 1):.0%}" for name, count in types.most_common()]
    precision = next(iter(types)) if len(types) == 1 else ", ".join(parts)
    return {"tensors": len(headers), "parameters": total, "precision": precision}


def _object(text: str) -> dict[str, Any]:
    data = _json(text)
    return data if isinstance(data, dict) else {}


def _list(text: str) -> list[Any]:
    data = _json(text)
    return data if isinstance(data, list) else []


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
