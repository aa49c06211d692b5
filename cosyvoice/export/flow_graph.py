"""The velocity estimator of the flow as a graph: one evaluation for a run of frames that continues cached ones.

All that stays the same over the steps of the solver is an input and computed outside: the conditions' part of the
input projection, which is linear in them, and the modulation of the layer norms, which depends on the flow time
only. No attention mask is needed either: a run of frames attends to all cached frames and to all of itself, which
is full attention for a whole utterance, and chunk-causal attention for one attention chunk after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, helper

from cosyvoice.config.model import DiTConfig, FlowConfig
from cosyvoice.errors import ConfigError
from cosyvoice.export.graph import MICROSOFT, Dim, GraphBuilder, TensorFile
from cosyvoice.export.quantise import quantise_linear, quantised_format
from cosyvoice.native.flow import GRAPHS
from cosyvoice.native.flow_encoder import MODULATION_ROWS, POSITION_CONTEXT

LAYER_NORM_EPS = 1e-6
INT4_BLOCK = 32
_ESTIMATOR = "decoder.estimator."
_LINEARS = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.ff.0.0", "ff.ff.2")
_LARGEST_LEVEL = 63
_MISH_LINEAR_FROM = 20.0
_END = 2**62


def build_flow(tensors: TensorFile, config: FlowConfig, directory: Path) -> None:
    """Write the graphs `GRAPHS` beside `tensors`, which holds the weights.

    Inputs, with rows = 2 (conditional, unconditional) or 1 (conditional alone):

    * x [1, frames, mel_dim]: the noisy mel, the same for both rows.
    * projected [rows, frames, dim]: input projection of the conditions, its bias included.
    * modulation [6 * depth + 2, dim]: of the evaluation's flow time, `MODULATION_ROWS` of each block, then scale and
      shift of the output; all scales with 1 added.
    * cos, sin [frames, dim_head / 2]: of the rotary angles at the frames' positions.
    * conv1, conv2 [rows, dim, 30]: what the convolutions of the position embedding see of earlier frames.
    * past_key_I, past_value_I [rows, heads, past, dim_head] for each block; `past` may be 0.
    * keep int64 [1]: how many of the last frames give out their keys and values.

    Outputs: velocity [rows, frames, mel_dim]; next_conv1, next_conv2 as conv1; key_I, value_I
    [rows, heads, keep, dim_head].

    Raises `ModelError` where a tensor is missing.
    """
    for cache, name in GRAPHS.items():
        _EstimatorGraph(tensors, config.dit, half_cache=cache == "float16").save(Path(directory) / name)


def quantise_flow(weights: Mapping[str, NDArray[Any]], precision: str) -> dict[str, NDArray[Any]]:
    """`weights` with the linear layers of the transformer blocks quantised; all else stays as it is.

    * "int8": `NAME.q` int8 [in, out] and `NAME.scales` float32 [out], one scale an output. Products are those of
      whole numbers, activations being quantised as they come, to 8 bits without sign. Weights use 7 bits: on
      processors without VNNI pairs of products are summed in 16 bits, which full range would overflow, and an
      overflow costs more than the bit.
    * "int4": block layout of `quantise_linear`: the smallest, no faster than single precision, and the least exact.

    Raises `ConfigError` for another precision.
    """
    if precision not in ("int8", "int4"):
        raise ConfigError(f"the flow cannot be quantised to {precision!r}; use 'int8' or 'int4'")
    out: dict[str, NDArray[Any]] = {}
    for name, weight in weights.items():
        if not _is_block_linear(name):
            out[name] = weight
            continue
        single = np.asarray(weight, np.float32)
        q, scales = _quantise_outputs(single) if precision == "int8" else quantise_linear(single, 4, INT4_BLOCK)
        out[f"{name}.q"], out[f"{name}.scales"] = q, scales
    return out


def _is_block_linear(name: str) -> bool:
    return name.startswith(f"{_ESTIMATOR}transformer_blocks.") and any(
        name.endswith(f".{linear}.weight") for linear in _LINEARS
    )


def _quantise_outputs(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """[out, in] -> int8 [in, out] and scales [out]."""
    largest = np.maximum(np.abs(weight).max(axis=1), np.finfo(np.float32).tiny * _LARGEST_LEVEL)
    scales = (largest / _LARGEST_LEVEL).astype(np.float32)
    return np.ascontiguousarray(np.rint(weight / scales[:, None]).astype(np.int8).T), scales


class _EstimatorGraph:
    """Builds one estimator; `half_cache` for cached keys and values in half precision."""

    def __init__(self, tensors: TensorFile, config: DiTConfig, half_cache: bool) -> None:
        self._tensors, self._config, self._half = tensors, config, half_cache
        self._graph = GraphBuilder("flow", tensors)
        self._cache_type = TensorProto.FLOAT16 if half_cache else TensorProto.FLOAT

    def save(self, path: Path) -> None:
        config, graph = self._config, self._graph
        x = self._input_embedding()
        self._modulation = graph.input("modulation", [MODULATION_ROWS * config.depth + 2, config.dim])
        angles = [graph.input(name, ["frames", config.dim_head // 2]) for name in ("cos", "sin")]
        frames = graph.node("Shape", x, start=1, end=2)
        # Counted from the front: a slice from "-0" would be everything.
        self._first_kept = graph.node("Sub", frames, graph.input("keep", [1], TensorProto.INT64))
        for block in range(config.depth):
            x = self._block(x, block, angles)
        x = self._modulated(x, MODULATION_ROWS * config.depth)
        velocity = self._linear(x, "proj_out")
        graph.output(velocity, "velocity", ["rows", "frames", config.mel_dim])
        graph.save(path)

    def _input_embedding(self) -> str:
        """The noisy mel joins the conditions, and the convolutional position is added: [rows, frames, dim]."""
        config, graph = self._config, self._graph
        noisy = graph.input("x", [1, "frames", config.mel_dim])
        projected = graph.input("projected", ["rows", "frames", config.dim])
        weight = graph.slice(graph.weight(f"{_ESTIMATOR}input_embed.proj.weight"), 0, config.mel_dim, 1)
        h = graph.add(self._transposed_product(noisy, weight), projected)
        position = graph.node("Transpose", h, perm=[0, 2, 1])
        for index in (1, 2):
            position = self._causal_convolution(position, index)
        return graph.add(graph.node("Transpose", position, perm=[0, 2, 1]), h)

    def _causal_convolution(self, x: str, index: int) -> str:
        """Grouped convolution and Mish of `x` [rows, dim, frames], continuing earlier frames."""
        config, graph = self._config, self._graph
        shape: list[Dim] = ["rows", config.dim, POSITION_CONTEXT]
        x = graph.concat(graph.input(f"conv{index}", shape), x, axis=2)
        name = f"{_ESTIMATOR}input_embed.conv_pos_embed.conv{index}.0"
        graph.output(graph.slice(x, -POSITION_CONTEXT, _END, 2), f"next_conv{index}", shape)
        # In two dimensions ONNX Runtime has a grouped convolution of twice the speed.
        axis = graph.ints(2)
        wide, weight = (graph.node("Unsqueeze", value, axis) for value in (x, graph.weight(f"{name}.weight")))
        out = graph.node("Conv", wide, weight, graph.weight(f"{name}.bias"), group=config.conv_pos_groups)
        return self._mish(graph.node("Squeeze", out, axis))

    def _mish(self, x: str) -> str:
        """x tanh(log(1 + e^x)) = x p / (p + 2) with p = e^x (e^x + 2): ONNX Runtime's own takes a slow logarithm."""
        graph, two = self._graph, self._graph.constant(2.0)
        # Beyond this the quotient is 1, and the square would overflow later.
        power = graph.node("Exp", graph.node("Min", x, graph.constant(_MISH_LINEAR_FROM)))
        p = graph.multiply(power, graph.add(power, two))
        return graph.multiply(x, str(graph.node("Div", p, graph.add(p, two))))

    def _block(self, x: str, block: int, angles: list[str]) -> str:
        graph, row, name = self._graph, MODULATION_ROWS * block, f"transformer_blocks.{block}."
        attended = self._attention(self._modulated(x, row), block, angles)
        x = graph.add(x, graph.multiply(attended, self._modulation_row(row + 2)))
        h = self._product(self._modulated(x, row + 3), f"{name}ff.ff.0.0")
        h = graph.node("FastGelu", h, graph.weight(f"{_ESTIMATOR}{name}ff.ff.0.0.bias"), domain=MICROSOFT)
        h = self._linear(h, f"{name}ff.ff.2")
        return graph.add(x, graph.multiply(h, self._modulation_row(row + 5)))

    def _attention(self, x: str, block: int, angles: list[str]) -> str:
        """`x` [rows, frames, dim] attends to the cached frames and to itself; the same shape."""
        config, graph, name = self._config, self._graph, f"transformer_blocks.{block}.attn."
        q, k = (self._rotated(self._linear(x, f"{name}{part}"), angles) for part in ("to_q", "to_k"))
        v = self._linear(x, f"{name}to_v")
        shape: list[Dim] = ["rows", config.heads, "past", config.dim_head]
        past = [graph.input(f"past_{part}_{block}", shape, self._cache_type) for part in ("key", "value")]
        for part, value in (("key", k), ("value", v)):
            kept: list[Dim] = [*shape[:2], "kept", shape[3]]
            graph.output(self._kept(value), f"{part}_{block}", kept, self._cache_type)
        if block == 0:
            length = graph.node("Shape", past[0], start=2, end=3)
            self._continues = graph.node("Squeeze", graph.node("Greater", length, graph.ints(0)))
        branches = {
            "then_branch": self._attention_branch(block, (q, k, v), past),
            "else_branch": self._attention_branch(block, (q, k, v), []),
        }
        return self._linear(graph.node("If", self._continues, **branches), f"{name}to_out.0")

    def _attention_branch(self, block: int, qkv: tuple[str, str, str], past: list[str]) -> GraphProto:
        """Attention with or without cached frames: without, ONNX Runtime has one that needs no scores of all
        pairs of frames in memory."""
        prefix = f"block_{block}_{'continued' if past else 'whole'}_"
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
                "MultiHeadAttention",
                inputs,
                outputs,
                f"{prefix}attention",
                domain=MICROSOFT,
                num_heads=self._config.heads,
            )
        )
        width = self._config.heads * self._config.dim_head
        out = helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, ["rows", "frames", width])
        return helper.make_graph(nodes, f"{prefix}graph", [], [out])

    def _kept(self, x: str) -> str:
        """The frames of `x` [rows, frames, heads * dim_head] to be cached, as [rows, heads, keep, dim_head]."""
        graph = self._graph
        x = graph.node("Slice", x, self._first_kept, graph.ints(_END), graph.ints(1))
        x = graph.node("Reshape", x, graph.ints(0, 0, self._config.heads, self._config.dim_head))
        x = graph.node("Transpose", x, perm=[0, 2, 1, 3])
        return str(graph.node("Cast", x, to=TensorProto.FLOAT16)) if self._half else str(x)

    def _rotated(self, x: str, angles: list[str]) -> str:
        """Rotary positions in the first `dim_head` channels, all of which belong to the first head: taken for one
        head, the queries or keys of all heads are rotated in just these."""
        return str(
            self._graph.node(
                "RotaryEmbedding",
                x,
                self._graph.ints(0),
                *angles,
                domain=MICROSOFT,
                interleaved=1,
                num_heads=1,
                rotary_embedding_dim=self._config.dim_head,
            )
        )

    def _modulated(self, x: str, row: int) -> str:
        """Layer norm, scaled and shifted by two rows of the modulation."""
        scale, shift = self._modulation_row(row), self._modulation_row(row + 1)
        return str(self._graph.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=LAYER_NORM_EPS))

    def _modulation_row(self, row: int) -> str:
        return str(self._graph.node("Gather", self._modulation, self._graph.constant(row, np.int64), axis=0))

    def _linear(self, x: str, name: str) -> str:
        return self._graph.add(self._product(x, name), self._graph.weight(f"{_ESTIMATOR}{name}.bias"))

    def _product(self, x: str, name: str) -> str:
        """`x` times the weight of the layer `name`, in the precision that the file keeps it in."""
        graph, weight = self._graph, f"{_ESTIMATOR}{name}.weight"
        if f"{weight}.q" not in self._tensors:
            return self._transposed_product(x, graph.weight(weight))
        q, scales = graph.raw(f"{weight}.q"), graph.raw(f"{weight}.scales")
        shape = self._tensors.shape(f"{weight}.q")
        if len(shape) == 2:
            return str(graph.node("DynamicQuantizeMatMul", x, q, scales, domain=MICROSOFT))
        inputs = self._inputs_of(name)
        bits, block = quantised_format(shape, inputs)
        layout: dict[str, Any] = {"K": inputs, "N": shape[0], "bits": bits, "block_size": block, "accuracy_level": 4}
        return str(graph.node("MatMulNBits", x, q, scales, domain=MICROSOFT, **layout))

    def _transposed_product(self, x: str, weight: str) -> str:
        """`x` times a weight [out, in]."""
        return str(self._graph.node("FusedMatMul", x, weight, domain=MICROSOFT, transB=1))

    def _inputs_of(self, name: str) -> int:
        config = self._config
        if name.endswith("to_out.0"):
            return config.heads * config.dim_head
        return config.dim * config.ff_mult if name.endswith("ff.ff.2") else config.dim
