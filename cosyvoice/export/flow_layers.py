"""Layers that the graphs of the flow are built of: linear layers in any precision, Mish, attention with a cache.

They use what ONNX Runtime has beyond the standard; `plain_layers` has the same in standard operations.
"""

from __future__ import annotations

from typing import Any

from onnx import GraphProto, TensorProto, helper

from cosyvoice.export.graph import MICROSOFT, Dim, GraphBuilder, TensorFile
from cosyvoice.export.quantise import quantised_format

_MISH_LINEAR_FROM = 20.0
_END = 2**62


class Layers:
    """Layers of a graph whose weights are named `prefix` and a path."""

    def __init__(self, tensors: TensorFile, graph: GraphBuilder, prefix: str) -> None:
        self._tensors, self._graph, self._prefix = tensors, graph, prefix

    def weight(self, name: str) -> str:
        """The tensor `name` in single precision."""
        return self._graph.weight(f"{self._prefix}{name}")

    def linear(self, x: str, name: str, inputs: int, gate: str = "") -> str:
        """The linear layer `name` of `inputs` channels, with its bias, times `gate` [outputs] if there is one."""
        graph, weight = self._graph, f"{self._prefix}{name}.weight.q"
        if not self._scales_outputs(weight):
            out = graph.add(self.product(x, name, inputs), self.weight(f"{name}.bias"))
            return graph.multiply(out, gate) if gate else out
        # The product of whole numbers is scaled and shifted for each output anyway: bias and gate cost nothing there.
        scales, bias = graph.raw(f"{self._prefix}{name}.weight.scales"), self.weight(f"{name}.bias")
        if gate:
            scales, bias = graph.multiply(scales, gate), graph.multiply(bias, gate)
        return str(graph.node("DynamicQuantizeMatMul", x, graph.raw(weight), scales, "", bias, domain=MICROSOFT))

    def _scales_outputs(self, weight: str) -> bool:
        """Whether `weight` is kept in whole numbers with a scale for each output."""
        return weight in self._tensors and len(self._tensors.shape(weight)) == 2

    def product(self, x: str, name: str, inputs: int) -> str:
        """`x` times the weight of the layer `name`, in the precision that the file keeps it in."""
        graph, weight = self._graph, f"{self._prefix}{name}.weight"
        if f"{weight}.q" not in self._tensors:
            return self.transposed_product(x, graph.weight(weight))
        q, scales = graph.raw(f"{weight}.q"), graph.raw(f"{weight}.scales")
        shape = self._tensors.shape(f"{weight}.q")
        if len(shape) == 2:
            return str(graph.node("DynamicQuantizeMatMul", x, q, scales, domain=MICROSOFT))
        bits, block = quantised_format(shape, inputs)
        layout: dict[str, Any] = {"K": inputs, "N": shape[0], "bits": bits, "block_size": block, "accuracy_level": 4}
        return str(graph.node("MatMulNBits", x, q, scales, domain=MICROSOFT, **layout))

    def transposed_product(self, x: str, weight: str) -> str:
        """`x` times a weight [out, in]."""
        return str(self._graph.node("FusedMatMul", x, weight, domain=MICROSOFT, transB=1))

    def gelu(self, x: str, bias: str) -> str:
        """GELU of `x` plus the tensor `bias`, with the hyperbolic tangent for the error function."""
        return str(self._graph.node("FastGelu", x, self.weight(bias), domain=MICROSOFT))

    def rotated(self, x: str, cos: str, sin: str, width: int) -> str:
        """`x` [rows, frames, channels] with neighbours of the first `width` channels turned, the others as they are.

        cos and sin [frames, width / 2].
        """
        # Taken for one head, of which a part is turned.
        attributes: dict[str, Any] = {"interleaved": 1, "num_heads": 1, "rotary_embedding_dim": width}
        return str(
            self._graph.node("RotaryEmbedding", x, self._graph.ints(0), cos, sin, domain=MICROSOFT, **attributes)
        )

    def layer_norm(self, x: str, name: str, epsilon: float = 1e-5) -> str:
        """Layer norm over the last axis."""
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return str(self._graph.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon))

    def mish(self, x: str) -> str:
        """x tanh(log(1 + e^x)) = x p / (p + 2) with p = e^x (e^x + 2): ONNX Runtime's own takes a slow logarithm."""
        graph, two = self._graph, self._graph.constant(2.0)
        # Beyond this the quotient is 1, and the square would overflow later.
        power = graph.node("Exp", graph.node("Min", x, graph.constant(_MISH_LINEAR_FROM)))
        p = graph.multiply(power, graph.add(power, two))
        return graph.multiply(x, str(graph.node("Div", p, graph.add(p, two))))


class CachedAttention:
    """Attention of a run of frames to the frames cached of earlier ones, and to itself.

    A layer has the inputs past_key_I and past_value_I [rows, heads, past, dim_head] and the outputs key_I and value_I
    [rows, heads, keep, dim_head]; I counts the layers. The input keep int64 [1] is common to all: how many of the last
    frames give out their keys and values.

    Args:
        graph: is added to.
        heads: of each layer.
        dim_head: channels of a head.
        half: cached keys and values are in half precision.
    """

    def __init__(self, graph: GraphBuilder, heads: int, dim_head: int, half: bool) -> None:
        self._graph, self._heads, self._dim_head, self._half = graph, heads, dim_head, half
        self._type = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self._layers = 0
        self._keep = graph.input("keep", [1], TensorProto.INT64)
        self._first_kept = ""
        self._continues = ""

    def __call__(self, q: str, k: str, v: str) -> str:
        """Queries, keys and values [rows, frames, heads * dim_head] of the next layer -> the same shape."""
        graph, index = self._graph, self._layers
        self._layers += 1
        shape: list[Dim] = ["rows", self._heads, "past", self._dim_head]
        past = [graph.input(f"past_{part}_{index}", shape, self._type) for part in ("key", "value")]
        if index == 0:
            # Counted from the front: a slice from "-0" would be everything.
            self._first_kept = graph.node("Sub", graph.node("Shape", q, start=1, end=2), self._keep)
        for part, value in (("key", k), ("value", v)):
            kept: list[Dim] = [*shape[:2], "kept", shape[3]]
            graph.output(self._kept(value), f"{part}_{index}", kept, self._type)
        return self._attend(index, (q, k, v), past)

    def _attend(self, index: int, qkv: tuple[str, str, str], past: list[str]) -> str:
        """Attention of layer `index` to `past`, if that has any frames, and to itself."""
        graph = self._graph
        if index == 0:
            length = graph.node("Shape", past[0], start=2, end=3)
            self._continues = graph.node("Squeeze", graph.node("Greater", length, graph.ints(0)))
        branches = {
            "then_branch": self._branch(index, qkv, past),
            "else_branch": self._branch(index, qkv, []),
        }
        return str(graph.node("If", self._continues, **branches))

    def _branch(self, index: int, qkv: tuple[str, str, str], past: list[str]) -> GraphProto:
        """Attention with or without cached frames: without, ONNX Runtime has one that needs no scores of all
        pairs of frames in memory."""
        prefix = f"block_{index}_{'continued' if past else 'whole'}_"
        nodes = []
        if past and self._half:
            wide = [f"{prefix}{part}" for part in ("past_key", "past_value")]
            nodes = [
                helper.make_node("Cast", [narrow], [value], f"{value}_cast", to=TensorProto.FLOAT)
                for narrow, value in zip(past, wide, strict=True)
            ]
            past = wide
        inputs = [*qkv, "", "", "", *past] if past else list(qkv)
        outputs = [f"{prefix}{part}" for part in (("out", "key", "value") if past else ("out",))]
        nodes.append(
            helper.make_node(
                "MultiHeadAttention", inputs, outputs, f"{prefix}attention", domain=MICROSOFT, num_heads=self._heads
            )
        )
        width = self._heads * self._dim_head
        out = helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, ["rows", "frames", width])
        return helper.make_graph(nodes, f"{prefix}graph", [], [out])

    def _by_head(self, x: str) -> str:
        """[rows, frames, heads * dim_head] -> [rows, heads, frames, dim_head]."""
        x = self._graph.reshape(x, 0, 0, self._heads, self._dim_head)
        return str(self._graph.node("Transpose", x, perm=[0, 2, 1, 3]))

    def _kept(self, x: str) -> str:
        """The frames of `x` [rows, frames, heads * dim_head] to be cached, as [rows, heads, keep, dim_head]."""
        graph = self._graph
        x = self._by_head(graph.node("Slice", x, self._first_kept, graph.ints(_END), graph.ints(1)))
        return str(graph.node("Cast", x, to=TensorProto.FLOAT16)) if self._half else str(x)
