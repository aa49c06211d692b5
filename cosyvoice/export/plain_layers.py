"""The layers of `flow_layers` in operations of the ONNX standard, which engines besides ONNX Runtime recognise.

Patterns matter more than brevity here: attention is two products around a softmax, and a quantised weight passes
through DequantizeLinear into its product. OpenVINO makes one fused operation of the former, and of the latter a
product of whole numbers, if its options say that inputs are quantised as they come.
"""

from __future__ import annotations

import math

import numpy as np

from cosyvoice.export.flow_layers import CachedAttention, Layers
from cosyvoice.export.graph import TensorFile


def reads_weights(tensors: TensorFile) -> bool:
    """Whether plain layers can use all weights of the file: those in blocks have no standard operation."""
    return all(len(tensors.shape(name)) == 2 for name in tensors if name.endswith(".q"))


class PlainLayers(Layers):
    """`Layers` in standard operations."""

    def _scales_outputs(self, weight: str) -> bool:
        """See `Layers`; no standard operation takes such a weight as it is."""
        return False

    def product(self, x: str, name: str, inputs: int) -> str:
        """See `Layers`; quantised weights are [in, out] with a scale for each output."""
        graph, weight = self._graph, f"{self._prefix}{name}.weight"
        if f"{weight}.q" not in self._tensors:
            return self.transposed_product(x, graph.weight(weight))
        restored = graph.node("DequantizeLinear", graph.raw(f"{weight}.q"), graph.weight(f"{weight}.scales"), axis=1)
        return str(graph.node("MatMul", x, restored))

    def transposed_product(self, x: str, weight: str) -> str:
        """See `Layers`."""
        return str(self._graph.node("MatMul", x, self._graph.node("Transpose", weight, perm=[1, 0])))

    def gelu(self, x: str, bias: str) -> str:
        """See `Layers`."""
        return str(self._graph.node("Gelu", self._graph.add(x, self.weight(bias)), approximate="tanh"))

    def rotated(self, x: str, cos: str, sin: str, width: int) -> str:
        """See `Layers`."""
        graph, last = self._graph, self._graph.ints(3)
        pairs = graph.reshape(graph.slice(x, 0, width, 2), 0, 0, width // 2, 2)
        a, b = (graph.node("Squeeze", graph.slice(pairs, index, index + 1, 3), last) for index in (0, 1))
        turned = (
            graph.node("Sub", graph.multiply(a, cos), graph.multiply(b, sin)),
            graph.add(graph.multiply(b, cos), graph.multiply(a, sin)),
        )
        both = graph.concat(*(graph.node("Unsqueeze", part, last) for part in turned), axis=3)
        return graph.concat(graph.reshape(both, 0, 0, width), graph.slice(x, width, 2**62, 2), axis=2)

    def mish(self, x: str) -> str:
        """x tanh(log(1 + e^x))."""
        return str(self._graph.node("Mish", x))


class PlainAttention(CachedAttention):
    """`CachedAttention` in standard operations."""

    def _attend(self, index: int, qkv: tuple[str, str, str], past: list[str]) -> str:
        graph = self._graph
        query, key, value = (self._by_head(part) for part in qkv)
        if self._half:
            past = [graph.node("Cast", part, to=1) for part in past]
        key, value = (graph.concat(held, new, axis=2) for held, new in zip(past, (key, value), strict=True))
        query = graph.multiply(query, graph.constant(1 / math.sqrt(self._dim_head), np.float32))
        scores = graph.node("MatMul", query, graph.node("Transpose", key, perm=[0, 1, 3, 2]))
        mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)
        return graph.reshape(graph.node("Transpose", mixed, perm=[0, 2, 1, 3]), 0, 0, self._heads * self._dim_head)
