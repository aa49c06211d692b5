"""A linear layer in whatever precision the weight file holds it."""

from __future__ import annotations

from cosyvoice.export.graph import MICROSOFT, GraphBuilder
from cosyvoice.export.quantise import quantised_format

INT8_ACCURACY = 4
"""The level of MatMulNBits at which inputs are quantised to eight bits as well; all others are many times slower."""


def linear(graph: GraphBuilder, x: str, layer: str, inputs: int) -> str:
    """`x` [..., inputs] through the layer named `layer`, with its bias if the file has one."""
    weight, bias = f"{layer}.weight", f"{layer}.bias"
    has_bias = bias in graph.tensors
    if f"{weight}.q" not in graph.tensors:
        product = str(graph.node("FusedMatMul", x, graph.weight(weight), domain=MICROSOFT, transB=1))
        return graph.add(product, graph.weight(bias)) if has_bias else product
    shape = graph.tensors.shape(f"{weight}.q")
    bits, block = quantised_format(shape, inputs)
    operands = [x, graph.raw(f"{weight}.q"), graph.weight(f"{weight}.scales")]
    if has_bias:
        operands += ["", "", graph.weight(bias)]
    return str(
        graph.node(
            "MatMulNBits",
            *operands,
            domain=MICROSOFT,
            K=inputs,
            N=shape[0],
            bits=bits,
            block_size=block,
            accuracy_level=INT8_ACCURACY,
        )
    )
