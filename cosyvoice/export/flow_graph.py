"""The velocity estimator of the flow as a graph: one evaluation for a run of frames that continues cached ones.

All that stays the same over the steps of the solver is an input and computed outside: the conditions' part of the
input projection, which is linear in them, and the modulation of the layer norms, which depends on the flow time
only. No attention mask is needed either: a run of frames attends to all cached frames and to all of itself, which
is full attention for a whole utterance, and chunk-causal attention for one attention chunk after the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import DiTConfig, FlowConfig
from cosyvoice.errors import ConfigError
from cosyvoice.export.flow_layers import CachedAttention, Layers
from cosyvoice.export.graph import Dim, GraphBuilder, TensorFile
from cosyvoice.export.plain_layers import PlainAttention, PlainLayers, reads_weights
from cosyvoice.export.quantise import quantise_linear
from cosyvoice.native.chunked_flow import GRAPHS, PLAIN_GRAPHS
from cosyvoice.native.flow_encoder import MODULATION_ROWS, POSITION_CONTEXT

LAYER_NORM_EPS = 1e-6
INT4_BLOCK = 32
_ESTIMATOR = "decoder.estimator."
_BLOCK_LINEAR = re.compile(
    r"decoder\.estimator\.(?:"
    r"transformer_blocks\.\d+\.(?:attn\.to_(?:q|k|v|out\.0)|ff\.ff\.(?:0\.0|2))|"
    r"(?:down|mid|up)_blocks\.\d+\.1\.\d+\.(?:attn1\.to_(?:q|k|v|out\.0)|ff\.net\.(?:0\.proj|2))"
    r")\.weight"
)
"""Linear layers of the transformer blocks, of the DiT and of the U-Nets."""
_LARGEST_LEVEL = 63
_END = 2**62


def build_flow(tensors: TensorFile, config: FlowConfig, directory: Path) -> None:
    """Write the graphs `GRAPHS` beside `tensors`, which holds the weights, and `PLAIN_GRAPHS`, the same in standard
    operations for other engines; weights of four bits have no plain graphs.

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
    for cache in GRAPHS:
        half = cache == "float16"
        _EstimatorGraph(tensors, config.dit, half, plain=False).save(Path(directory) / GRAPHS[cache])
        if reads_weights(tensors):
            _EstimatorGraph(tensors, config.dit, half, plain=True).save(Path(directory) / PLAIN_GRAPHS[cache])


def quantise_flow(weights: Mapping[str, NDArray[Any]], precision: str) -> dict[str, NDArray[Any]]:
    """`weights` of any flow with the linear layers of the transformer blocks quantised; all else stays as it is.

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
    return _BLOCK_LINEAR.fullmatch(name) is not None


def _quantise_outputs(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """[out, in] -> int8 [in, out] and scales [out]."""
    largest = np.maximum(np.abs(weight).max(axis=1), np.finfo(np.float32).tiny * _LARGEST_LEVEL)
    scales = (largest / _LARGEST_LEVEL).astype(np.float32)
    return np.ascontiguousarray(np.rint(weight / scales[:, None]).astype(np.int8).T), scales


class _EstimatorGraph:
    """Builds one estimator; `half_cache` for cached keys and values in half precision, `plain` for operations of the
    standard alone."""

    def __init__(self, tensors: TensorFile, config: DiTConfig, half_cache: bool, plain: bool) -> None:
        self._config = config
        self._graph = GraphBuilder("flow", tensors)
        self._layers = (PlainLayers if plain else Layers)(tensors, self._graph, _ESTIMATOR)
        self._attention_class = PlainAttention if plain else CachedAttention
        self._half = half_cache

    def save(self, path: Path) -> None:
        config, graph = self._config, self._graph
        x = self._input_embedding()
        self._modulation = graph.input("modulation", [MODULATION_ROWS * config.depth + 2, config.dim])
        angles = [graph.input(name, ["frames", config.dim_head // 2]) for name in ("cos", "sin")]
        self._attend = self._attention_class(graph, config.heads, config.dim_head, self._half)
        for block in range(config.depth):
            x = self._block(x, block, angles)
        x = self._modulated(x, MODULATION_ROWS * config.depth)
        velocity = self._layers.linear(x, "proj_out", config.dim)
        graph.output(velocity, "velocity", ["rows", "frames", config.mel_dim])
        graph.save(path)

    def _input_embedding(self) -> str:
        """The noisy mel joins the conditions, and the convolutional position is added: [rows, frames, dim]."""
        config, graph = self._config, self._graph
        noisy = graph.input("x", [1, "frames", config.mel_dim])
        projected = graph.input("projected", ["rows", "frames", config.dim])
        weight = graph.slice(self._layers.weight("input_embed.proj.weight"), 0, config.mel_dim, 1)
        h = graph.add(self._layers.transposed_product(noisy, weight), projected)
        position = graph.node("Transpose", h, perm=[0, 2, 1])
        for index in (1, 2):
            position = self._causal_convolution(position, index)
        return graph.add(graph.node("Transpose", position, perm=[0, 2, 1]), h)

    def _causal_convolution(self, x: str, index: int) -> str:
        """Grouped convolution and Mish of `x` [rows, dim, frames], continuing earlier frames."""
        config, graph = self._config, self._graph
        shape: list[Dim] = ["rows", config.dim, POSITION_CONTEXT]
        x = graph.concat(graph.input(f"conv{index}", shape), x, axis=2)
        name = f"input_embed.conv_pos_embed.conv{index}.0"
        graph.output(graph.slice(x, -POSITION_CONTEXT, _END, 2), f"next_conv{index}", shape)
        # In two dimensions ONNX Runtime has a grouped convolution of twice the speed.
        axis = graph.ints(2)
        wide, weight = (graph.node("Unsqueeze", value, axis) for value in (x, self._layers.weight(f"{name}.weight")))
        out = graph.node("Conv", wide, weight, self._layers.weight(f"{name}.bias"), group=config.conv_pos_groups)
        return self._layers.mish(graph.node("Squeeze", out, axis))

    def _block(self, x: str, block: int, angles: list[str]) -> str:
        graph, row, name = self._graph, MODULATION_ROWS * block, f"transformer_blocks.{block}."
        x = graph.add(x, self._attention(self._modulated(x, row), block, angles, self._modulation_row(row + 2)))
        h = self._layers.product(self._modulated(x, row + 3), f"{name}ff.ff.0.0", self._config.dim)
        h = self._layers.gelu(h, f"{name}ff.ff.0.0.bias")
        width = self._config.dim * self._config.ff_mult
        return graph.add(x, self._layers.linear(h, f"{name}ff.ff.2", width, self._modulation_row(row + 5)))

    def _attention(self, x: str, block: int, angles: list[str], gate: str) -> str:
        """`x` [rows, frames, dim] attends to the cached frames and to itself; the same shape, times `gate` [dim]."""
        config, name = self._config, f"transformer_blocks.{block}.attn."
        q, k, v = (self._layers.linear(x, f"{name}{part}", config.dim) for part in ("to_q", "to_k", "to_v"))
        h = self._attend(self._rotated(q, angles), self._rotated(k, angles), v)
        return self._layers.linear(h, f"{name}to_out.0", config.heads * config.dim_head, gate)

    def _rotated(self, x: str, angles: list[str]) -> str:
        """Rotary positions in the first `dim_head` channels, all of which belong to the first head."""
        cos, sin = angles
        return self._layers.rotated(x, cos, sin, self._config.dim_head)

    def _modulated(self, x: str, row: int) -> str:
        """Layer norm, scaled and shifted by two rows of the modulation."""
        scale, shift = self._modulation_row(row), self._modulation_row(row + 1)
        return str(self._graph.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=LAYER_NORM_EPS))

    def _modulation_row(self, row: int) -> str:
        return str(self._graph.node("Gather", self._modulation, self._graph.constant(row, np.int64), axis=0))
