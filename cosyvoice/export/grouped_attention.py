"""Fused attention on key-value buffers of the caller, for heads of any width.

ONNX Runtime's operation takes heads whose width is a multiple of 8. Others are filled up with zeros, which change no
score, and what comes out of the zeros is cut off again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cosyvoice.export.graph import MICROSOFT, Dim, GraphBuilder
from cosyvoice.native.kv_pool import buffer_width


class GroupedAttention:
    """Attention of the layers of a decoder; each has buffers past_key_I and past_value_I, and outputs present_key_I and
    present_value_I to be bound to the same memory [batch, kv_heads, capacity, buffer_width(head_dim)].

    Args:
        graph: is added to; has the inputs seqlens_k and total_sequence_length.
        heads, kv_heads: of queries, and of keys and values.
        head_dim: channels of a head.
    """

    def __init__(self, graph: GraphBuilder, heads: int, kv_heads: int, head_dim: int) -> None:
        self._graph, self._heads, self._kv_heads, self._head_dim = graph, heads, kv_heads, head_dim
        self._width = buffer_width(head_dim)

    def __call__(
        self, index: int, name: str, qkv: tuple[str, str, str], more: Sequence[str] = (), **attributes: Any
    ) -> str:
        """Queries [batch, rows, heads * head_dim], keys and values of layer `index` -> the shape of the queries.

        `name` is for the output of the operation, `more` its inputs behind total_sequence_length.
        """
        graph = self._graph
        shape: list[Dim] = ["batch", self._kv_heads, "capacity", self._width]
        past = [graph.input(f"past_{kind}_{index}", shape) for kind in ("key", "value")]
        present = [f"present_{kind}_{index}" for kind in ("key", "value")]
        filled = self._width != self._head_dim
        if filled:
            counts = (self._heads, self._kv_heads, self._kv_heads)
            qkv = tuple(self._filled(part, count) for part, count in zip(qkv, counts, strict=True))  # type: ignore[assignment]
            attributes["scale"] = 1 / math.sqrt(self._head_dim)
        graph.node(
            "GroupQueryAttention",
            *(*qkv, *past, "seqlens_k", "total_sequence_length", *more),
            domain=MICROSOFT,
            names=[name, *present],
            num_heads=self._heads,
            kv_num_heads=self._kv_heads,
            **attributes,
        )
        for output in present:
            graph.output_as(output, shape)
        return self._cut(name) if filled else name

    def _filled(self, x: str, heads: int) -> str:
        """`x` [batch, rows, heads * head_dim] with zeros at the end of every head."""
        graph = self._graph
        by_head = graph.reshape(x, 0, 0, heads, self._head_dim)
        padded = graph.node("Pad", by_head, graph.ints(*[0] * 7, self._width - self._head_dim))
        return graph.reshape(str(padded), 0, 0, heads * self._width)

    def _cut(self, x: str) -> str:
        graph = self._graph
        by_head = graph.slice(graph.reshape(x, 0, 0, self._heads, self._width), 0, self._head_dim, 3)
        return graph.reshape(by_head, 0, 0, self._heads * self._head_dim)
