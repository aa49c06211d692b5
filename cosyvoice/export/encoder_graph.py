"""Encoders with relative positions as parts of a graph: embedding, layers, norm, and the scores of distances.

How a layer attends is up to the caller: to buffers of earlier positions, or to the whole sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from cosyvoice.config.model import EncoderConfig
from cosyvoice.export.graph import MICROSOFT, GraphBuilder
from cosyvoice.export.linear import linear
from cosyvoice.native.positions import BASE

LAYER_EPS = 1e-12
Attend = Callable[[str, str, str, str], str]
"""Makes what a layer reads, [batch, rows, channels], of queries, keys, values and a bias [batch, heads, rows, keys]."""


class EncoderGraph:
    """Adds the encoder whose weights begin with `prefix`, such as "llm", to a graph."""

    def __init__(self, graph: GraphBuilder, prefix: str, config: EncoderConfig) -> None:
        self._graph, self._prefix, self._config = graph, prefix, config
        self.heads, self.head_dim = config.attention_heads, config.output_size // config.attention_heads

    def embed(self, x: str, name: str = "embed", inputs: int | None = None) -> str:
        """`x` [batch, rows, inputs], by default of the encoder's input size, to [batch, rows, channels]."""
        graph = self._graph
        x = linear(graph, x, f"{self._prefix}.{name}.out.0", self._config.input_size if inputs is None else inputs)
        x = self.norm(x, f"{name}.out.1", 1e-5)
        if self._config.input_layer == "linear_legacy":
            x = graph.node("Relu", x)
        return graph.multiply(x, graph.constant(math.sqrt(self._config.output_size)))

    def layer(self, x: str, name: str, distances: str, places: str, attend: Attend) -> str:
        """`x` through the layer `name`, such as "encoders.0".

        `distances` and `places` are those of `bias`.
        """
        graph, config = self._graph, self._config
        conformer = config.layer == "conformer"
        normed = self.norm(x, f"{name}.{'norm_mha' if conformer else 'norm1'}", LAYER_EPS)
        attention = f"{self._prefix}.{name}.self_attn"
        query, key, value = (linear(graph, normed, f"{attention}.linear_{part}", config.output_size) for part in "qkv")
        bias = self.bias(graph.add(query, self._flat(f"{attention}.pos_bias_v")), distances, places)
        mixed = attend(graph.add(query, self._flat(f"{attention}.pos_bias_u")), key, value, bias)
        x = graph.add(x, linear(graph, mixed, f"{attention}.linear_out", config.output_size))
        normed = self.norm(x, f"{name}.{'norm_ff' if conformer else 'norm2'}", LAYER_EPS)
        hidden = linear(graph, normed, f"{self._prefix}.{name}.feed_forward.w_1", config.output_size)
        # x * sigmoid(x) in one operation.
        hidden = (
            graph.node("QuickGelu", hidden, domain=MICROSOFT, alpha=1.0) if conformer else graph.node("Relu", hidden)
        )
        return graph.add(x, linear(graph, hidden, f"{self._prefix}.{name}.feed_forward.w_2", config.linear_units))

    def bias(self, query: str, distances: str, places: str) -> str:
        """What is added to the scores of pairs: those of the distances between them.

        `query` is [batch, rows, channels], `distances` are projected, [distances, heads, head_dim], and `places` int64
        [batch, 1, rows, keys] are where among them each pair finds its own.
        """
        graph = self._graph
        # All rows of a batch meet the same distances, so they are one matrix a head, and nothing is copied for it.
        scores = graph.node(
            "FusedMatMul",
            graph.reshape(query, -1, self.heads, self.head_dim),
            distances,
            domain=MICROSOFT,
            transBatchA=1,
            transBatchB=1,
            transB=1,
            alpha=1 / math.sqrt(self.head_dim),
        )
        batch_and_rows = graph.node("Shape", query, start=0, end=2)
        shape = graph.concat(graph.ints(self.heads), batch_and_rows, graph.ints(-1), axis=0)
        scores = graph.node("Transpose", graph.node("Reshape", scores, shape), perm=[1, 0, 2, 3])
        by_head = graph.node("Expand", places, graph.ints(1, self.heads, 1, 1))
        return str(graph.node("GatherElements", scores, by_head, axis=3))

    def distances(self, name: str, sinusoids: str) -> str:
        """`sinusoids` [distances, channels] as the layer `name` projects them, [distances, heads, head_dim]."""
        layer = f"{self._prefix}.{name}.self_attn.linear_pos"
        projected = linear(self._graph, sinusoids, layer, self._config.output_size)
        return self._graph.reshape(projected, 0, self.heads, self.head_dim)

    def sinusoids(self, positions: str) -> str:
        """Sine and cosine of `positions` float [distances] in turn, [distances, channels]."""
        graph, channels = self._graph, self._config.output_size
        exponents = np.arange(0, channels, 2, dtype=np.float32)
        frequencies = graph.constant(np.exp(exponents * np.float32(-math.log(BASE) / channels)))
        angles = graph.multiply(graph.node("Unsqueeze", positions, graph.ints(1)), frequencies)
        pairs = [graph.node("Unsqueeze", graph.node(kind, angles), graph.ints(2)) for kind in ("Sin", "Cos")]
        return graph.reshape(graph.concat(*pairs, axis=2), 0, channels)

    def norm(self, x: str, name: str, epsilon: float) -> str:
        """The layer norm `name`."""
        weight, bias = (self._graph.weight(f"{self._prefix}.{name}.{part}") for part in ("weight", "bias"))
        return str(self._graph.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon))

    def _flat(self, name: str) -> str:
        return self._graph.reshape(self._graph.weight(name), -1)
