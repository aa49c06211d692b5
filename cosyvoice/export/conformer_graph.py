"""Conformer layers with relative positions as a graph, for a whole sequence or for a run that continues cached rows.

The score of a distance, q·W sinusoid(i - j), is taken apart by the addition theorems: q·W, rotated by the angles of i,
meets the sinusoids of j. So distances cost no table of their own, cached rows need their sinusoids only, in whatever
order they lie in memory, and nothing has to be shifted.
"""

from __future__ import annotations

import math

from cosyvoice.config.model import EncoderConfig
from cosyvoice.export.flow_layers import Layers
from cosyvoice.export.graph import MICROSOFT, Dim, GraphBuilder, TensorFile

LAYER_NORM_EPS = 1e-12


class ConformerGraph:
    """Adds layers to a graph; sequences are [1, rows, channels].

    Args:
        tensors: holds the weights.
        graph: is added to.
        config: of the layers.
        prefix: of the names of the weights.
    """

    def __init__(self, tensors: TensorFile, graph: GraphBuilder, config: EncoderConfig, prefix: str) -> None:
        self._graph, self._config = graph, config
        self._layers = Layers(tensors, graph, prefix)
        self._width, self._heads = config.output_size, config.attention_heads
        self._cached = 0

    def embed(self, x: str, name: str, inputs: int) -> str:
        """Linear layer and norm of `x` [1, rows, inputs], times the root of the width."""
        h = self._layers.layer_norm(self._layers.linear(x, f"{name}.out.0", inputs), f"{name}.out.1")
        return self._graph.multiply(h, self._graph.constant(math.sqrt(self._width)))

    def layers(self, x: str, name: str, count: int, rows: str, past: str | None = None) -> str:
        """`x` through the layers `name`.0 to `name`.(count - 1).

        Adds the inputs ROWS_cos and ROWS_sin [rows, width / 2], of the angles at the rows' positions, and ROWS_table
        [keys, width]: for each key, those before first, -sin and cos of its angles in turn. With `past`, the name of a
        dimension, each layer has the inputs past_key_I and past_value_I [1, heads, past, width / heads] and the outputs
        key_I and value_I of the new rows; I counts the layers of the graph.
        """
        graph = self._graph
        angles = [graph.input(f"{rows}_{part}", [rows, self._width // 2]) for part in ("cos", "sin")]
        keys: Dim = rows if past is None else f"{past}_and_{rows}"
        table = graph.input(f"{rows}_table", [keys, self._width])
        for index in range(count):
            layer = f"{name}.{index}"
            h = self._layers.layer_norm(x, f"{layer}.norm_mha", LAYER_NORM_EPS)
            x = graph.add(x, self._attention(h, f"{layer}.self_attn", angles, table, rows, past))
            h = self._layers.layer_norm(x, f"{layer}.norm_ff", LAYER_NORM_EPS)
            h = self._layers.linear(h, f"{layer}.feed_forward.w_1", self._width)
            h = graph.multiply(h, str(graph.node("Sigmoid", h)))
            x = graph.add(x, self._layers.linear(h, f"{layer}.feed_forward.w_2", self._config.linear_units))
        return x

    def after_norm(self, x: str) -> str:
        """The norm behind the last layer."""
        return self._layers.layer_norm(x, "after_norm")

    def _attention(self, x: str, name: str, angles: list[str], table: str, rows: str, past: str | None) -> str:
        graph, layers = self._graph, self._layers
        q, k, v = (self._split(layers.linear(x, f"{name}.linear_{part}", self._width)) for part in "qkv")
        if past is not None:
            k, v = self._continued(k, v, rows, past)
        by_content, by_distance = (graph.add(q, self._bias(f"{name}.pos_bias_{part}")) for part in "uv")
        scores = graph.node("FusedMatMul", by_content, k, domain=MICROSOFT, transB=1)
        # [heads, head_dim, width]: what a head's query asks of each sinusoid.
        weight = graph.reshape(layers.weight(f"{name}.linear_pos.weight"), self._heads, -1, self._width)
        asked = graph.node("MatMul", by_distance, weight)
        asked = graph.node("RotaryEmbedding", asked, graph.ints(0), *angles, domain=MICROSOFT, interleaved=1)
        scores = graph.add(scores, str(graph.node("FusedMatMul", asked, table, domain=MICROSOFT, transB=1)))
        scale = 1 / math.sqrt(self._width // self._heads)
        shares = graph.node("Softmax", graph.multiply(scores, graph.constant(scale)), axis=-1)
        mixed = graph.node("Transpose", graph.node("MatMul", shares, v), perm=[0, 2, 1, 3])
        return layers.linear(graph.reshape(mixed, 0, 0, -1), f"{name}.linear_out", self._width)

    def _split(self, x: str) -> str:
        """[1, rows, width] -> [1, heads, rows, width / heads]"""
        x = self._graph.reshape(x, 0, 0, self._heads, -1)
        return str(self._graph.node("Transpose", x, perm=[0, 2, 1, 3]))

    def _bias(self, name: str) -> str:
        """[heads, head_dim] -> [heads, 1, head_dim]"""
        return str(self._graph.node("Unsqueeze", self._layers.weight(name), self._graph.ints(1)))

    def _continued(self, k: str, v: str, rows: str, past: str) -> tuple[str, str]:
        """Keys and values of the next layer behind the cached ones."""
        graph, index = self._graph, self._cached
        self._cached += 1
        head_dim = self._width // self._heads
        both = []
        for part, new in (("key", k), ("value", v)):
            graph.output(new, f"{part}_{index}", [1, self._heads, rows, head_dim])
            before = graph.input(f"past_{part}_{index}", [1, self._heads, past, head_dim])
            both.append(graph.concat(before, new, axis=2))
        return both[0], both[1]
