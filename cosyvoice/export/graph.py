"""A small builder of ONNX graphs whose weights lie in a safetensors file beside them.

A graph names its weights and holds none: each initializer points at the bytes of one tensor of the file, which
ONNX Runtime maps into memory. So a model directory has one copy of its weights, under the names and in the
layout of the reference (linear layers are [out, in]), and both implementations read the same file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cosyvoice.checkpoint import tensor_file
from cosyvoice.errors import ModelError

OPSET = 20
MICROSOFT_OPSET = 1
IR_VERSION = 10
_TYPES = {
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "F64": TensorProto.DOUBLE,
    "I8": TensorProto.INT8,
    "U8": TensorProto.UINT8,
    "I32": TensorProto.INT32,
    "I64": TensorProto.INT64,
}
MICROSOFT = "com.microsoft"
Dim = int | str


class TensorFile(tensor_file.TensorFile):
    """The tensors of a safetensors file, with their types as ONNX names them."""

    def type(self, name: str) -> int:
        """The ONNX type of a tensor. Raises `ModelError` where ONNX has none for it."""
        kind = self.element_type(name)
        if kind not in _TYPES:
            raise ModelError(f"{self.path}: {name!r} has elements of type {kind}, which no graph reads; convert it")
        return int(_TYPES[kind])


class GraphBuilder:
    """Builds a graph node by node. Values are named by strings; weights by their names in `tensors`."""

    def __init__(self, name: str, tensors: TensorFile) -> None:
        self.name, self.tensors = name, tensors
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._widened: dict[str, str] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def input(self, name: str, shape: Sequence[Dim], dtype: int = TensorProto.FLOAT) -> str:
        """Declare an input; dimensions are numbers or names."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, value: str, name: str, shape: Sequence[Dim], dtype: int = TensorProto.FLOAT) -> None:
        """Declare `value` as the output `name`."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=self._fresh("Output")))
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))

    def output_as(self, node_output: str, shape: Sequence[Dim], dtype: int = TensorProto.FLOAT) -> None:
        """Declare a value that a node already made under its final name (see `node(..., names=...)`)."""
        self._outputs.append(helper.make_tensor_value_info(node_output, dtype, list(shape)))

    def node(
        self,
        operation: str,
        *inputs: str,
        domain: str = "",
        names: Sequence[str] = (),
        outputs: int = 1,
        **attributes: Any,
    ) -> Any:
        """Add a node; returns the name of its output, or a tuple of names where `outputs` > 1.

        `names` gives the outputs names of the caller's choice. An input "" is one that is left out.
        """
        made = list(names) or [self._fresh(operation) for _ in range(outputs)]
        node = helper.make_node(operation, list(inputs), made, self._fresh(operation), domain=domain, **attributes)
        self._nodes.append(node)
        return made[0] if len(made) == 1 else tuple(made)

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """A small constant, kept in the graph; equal ones are kept once."""
        array: NDArray[Any] = np.asarray(values, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._fresh("constant")
            self._initializers[name] = numpy_helper.from_array(array, name)
            self._constants[key] = name
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """A constant int64 vector, as shapes, axes and bounds are given."""
        return self.constant(list(values), np.int64)

    def raw(self, name: str) -> str:
        """The tensor `name` of the file in its own type."""
        if name not in self._initializers:
            offset, length = self.tensors.span(name)
            tensor = onnx.TensorProto()
            tensor.name = name
            tensor.data_type = self.tensors.type(name)
            tensor.dims.extend(self.tensors.shape(name))
            tensor.data_location = TensorProto.EXTERNAL
            location = {"location": self.tensors.path.name, "offset": str(offset), "length": str(length)}
            for key, value in location.items():
                tensor.external_data.add(key=key, value=value)
            self._initializers[name] = tensor
        return name

    def weight(self, name: str) -> str:
        """The tensor `name` of the file in single precision, whatever precision it is kept in."""
        raw = self.raw(name)
        if self.tensors.type(name) == TensorProto.FLOAT:
            return raw
        if name not in self._widened:
            # ONNX Runtime folds this when a session is made.
            self._widened[name] = self.node("Cast", raw, to=TensorProto.FLOAT)
        return self._widened[name]

    def add(self, a: str, b: str) -> str:
        return str(self.node("Add", a, b))

    def multiply(self, a: str, b: str) -> str:
        return str(self.node("Mul", a, b))

    def reshape(self, x: str, *shape: int) -> str:
        """0 keeps a dimension, -1 takes what is left."""
        return str(self.node("Reshape", x, self.ints(*shape)))

    def slice(self, x: str, start: int, end: int, axis: int) -> str:
        """x[start:end] along `axis`; negative bounds count from the end."""
        return str(self.node("Slice", x, self.ints(start), self.ints(end), self.ints(axis)))

    def concat(self, *parts: str, axis: int) -> str:
        return str(self.node("Concat", *parts, axis=axis))

    def build(self, metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
        """The finished model; raises `ModelError` where it is no valid graph."""
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, MICROSOFT_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="cosyvoice")
        helper.set_model_props(model, dict(metadata or {}))
        return model

    def save(self, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write the graph beside its weights; `path` must be in their directory."""
        if path.parent.resolve() != self.tensors.path.parent.resolve():
            raise ModelError(f"{path} must lie beside {self.tensors.path}, whose tensors it points at")
        path.write_bytes(self.build(metadata).SerializeToString())

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"
