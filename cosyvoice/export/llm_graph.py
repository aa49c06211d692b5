"""The speech language model as one ONNX graph, and which of its tensors are quantised.

The graph has fused attention whose key-value buffers the caller owns: each run writes its rows into them in place,
so nothing is copied from step to step. Rows come in as embeddings; of each sequence only the last row passes through
the output head, which is as wide as the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from cosyvoice.config.model import LLMConfig, TransformerLMConfig
from cosyvoice.errors import ConfigError
from cosyvoice.export.graph import MICROSOFT, GraphBuilder, TensorFile
from cosyvoice.export.grouped_attention import GroupedAttention
from cosyvoice.export.linear import linear
from cosyvoice.export.quantise import quantise_linear
from cosyvoice.export.transformer_lm_graph import build_transformer_lm

HEAD = "llm_decoder"
ROTARY_MULTIPLE = 16
"""The fused attention turns heads of a multiple of this width; those of others are turned before it."""
_FORMATS: dict[str, dict[str, tuple[int, int]]] = {
    "int8": {"self_attn": (8, 128), "mlp": (8, 128), "head": (8, 128)},
    "int4": {"self_attn": (4, 128), "mlp": (4, 128), "head": (4, 128)},
    "mixed": {"self_attn": (8, 128), "mlp": (4, 128), "head": (8, 128)},
}
"""Bits and block of each part of the network."""
NARROW, NARROW_BLOCK = 512, 32
"""Layers of fewer inputs than that have blocks of at most 32 at four bits: there the larger ones are not faster, and
cost more than twice the divergence."""


_PARTS = {
    "self_attn": re.compile(r".*\.self_attn\.(\w_proj|linear_(q|k|v|out))\.weight"),
    "mlp": re.compile(r".*\.(mlp\.\w+_proj|feed_forward\.w_\d)\.weight"),
    "head": re.compile(rf"{HEAD}\.weight"),
}


def quantised_part(name: str) -> str | None:
    """The part of the network that a tensor of its state dict belongs to, None for one that stays as it is."""
    return next((part for part, pattern in _PARTS.items() if pattern.fullmatch(name)), None)


def quantise_llm(weights: Mapping[str, NDArray[Any]], precision: str) -> dict[str, NDArray[Any]]:
    """`weights` with the matrices of linear layers quantised; embeddings, norms and biases stay as they are.

    `NAME` [out, in] becomes `NAME.q` [out, blocks, bytes] and `NAME.scales` [out, blocks]. `precision` is "int8",
    "int4", or "mixed": four bits for the feed-forward layers, which hold most of the weights, eight for the rest.

    Raises `ConfigError` for another precision.
    """
    if precision not in _FORMATS:
        raise ConfigError(f"a language model cannot be quantised to {precision!r}; choose one of {sorted(_FORMATS)}")
    result: dict[str, NDArray[Any]] = {}
    for name, tensor in weights.items():
        part = quantised_part(name)
        if part is None:
            result[name] = tensor
            continue
        bits, block = _FORMATS[precision][part]
        if bits == 4 and tensor.shape[1] < NARROW:
            block = min(block, NARROW_BLOCK)
        result[f"{name}.q"], result[f"{name}.scales"] = quantise_linear(tensor, bits, block)
    return result


def build_llm(
    tensors: TensorFile, config: LLMConfig | TransformerLMConfig, directory: Path, name: str = "llm.onnx"
) -> Path:
    """Write the graph of the decoder beside its weights, and what else the model needs; returns the decoder's path.

    Inputs, for sequences of `batch` and `rows` new positions each:
        embeddings [batch, rows, channels]; seqlens_k [batch] int32: positions of each sequence after this run, less
        one; total_sequence_length int32 scalar: the most of them, less nothing; last [batch] int64: the row of each
        sequence that the output is asked for; cos_cache and sin_cache [positions, head_dim / 2]; past_key_I and
        past_value_I of each layer I as in `GroupedAttention`.
    Outputs:
        log_probs [batch, outputs]; present_key_I and present_value_I, to be bound to the buffers of the past.

    With `rows` > 1 on sequences that are not empty, `batch` must be 1, a limit of the fused attention.
    Raises `ModelError` for tensors that do not fit `config`.
    """
    if isinstance(config, TransformerLMConfig):
        return build_transformer_lm(tensors, config, directory, name)
    graph = _LLMGraph(tensors, config)
    path = Path(directory) / name
    graph.write(path)
    return path


class _LLMGraph:
    """Adds the decoder to a graph, layer by layer."""

    def __init__(self, tensors: TensorFile, config: LLMConfig) -> None:
        self._graph = GraphBuilder("llm", tensors)
        self._tensors, self._config, self._qwen = tensors, config, config.qwen
        self._head_dim = self._qwen.hidden_size // self._qwen.num_heads
        self._attend = GroupedAttention(self._graph, self._qwen.num_heads, self._qwen.num_kv_heads, self._head_dim)

    def write(self, path: Path) -> None:
        graph, width = self._graph, self._qwen.hidden_size
        stream = graph.input("embeddings", ["batch", "rows", width])
        graph.input("seqlens_k", ["batch"], TensorProto.INT32)
        graph.input("total_sequence_length", [], TensorProto.INT32)
        last = graph.input("last", ["batch"], TensorProto.INT64)
        for table in ("cos_cache", "sin_cache"):
            graph.input(table, ["positions", self._head_dim // 2])
        self._positions = self._rotated_apart() if self._head_dim % ROTARY_MULTIPLE else ""
        added = ""
        for index in range(self._qwen.num_layers):
            layer = f"llm.model.model.layers.{index}"
            normed, stream = self._add_and_norm(stream, added, f"{layer}.input_layernorm")
            added = self._attention(normed, f"{layer}.self_attn", index)
            normed, stream = self._add_and_norm(stream, added, f"{layer}.post_attention_layernorm")
            added = self._feed_forward(normed, f"{layer}.mlp")
        # Only the rows that are asked for go on.
        indices = graph.node("Unsqueeze", last, graph.ints(1))
        stream = graph.node("GatherND", graph.add(stream, added), indices, batch_dims=1)
        normed, _ = self._add_and_norm(stream, "", "llm.model.model.norm")
        outputs = self._config.speech_token_size + self._config.speech_extra_tokens
        logits = linear(self._graph, normed, HEAD, width)
        graph.node("LogSoftmax", logits, names=["log_probs"], axis=-1)
        graph.output_as("log_probs", ["batch", outputs])
        graph.save(path)

    def _rotated_apart(self) -> str:
        """Positions [batch, rows] of the new rows: the last row is at `seqlens_k`."""
        graph = self._graph
        rows = graph.node("Squeeze", graph.node("Shape", "embeddings", start=1, end=2))
        one = graph.constant(1, np.int64)
        back = graph.node("Range", graph.node("Sub", one, rows), one, one)
        ends = graph.node("Unsqueeze", graph.node("Cast", "seqlens_k", to=TensorProto.INT64), graph.ints(1))
        return graph.add(ends, back)

    def _add_and_norm(self, stream: str, added: str, norm: str) -> tuple[str, str]:
        """RMSNorm of `stream` + `added`, and the sum itself."""
        scale = self._graph.weight(f"{norm}.weight")
        epsilon = self._qwen.rms_norm_eps
        if not added:
            normed = self._graph.node("SimplifiedLayerNormalization", stream, scale, epsilon=epsilon, axis=-1)
            return normed, stream
        # The outputs between are the mean, which this norm has not, and the deviation.
        names = [f"{norm}.output", "", "", f"{norm}.sum"]
        self._graph.node(
            "SkipSimplifiedLayerNormalization", stream, added, scale, domain=MICROSOFT, names=names, epsilon=epsilon
        )
        return names[0], names[3]

    def _attention(self, x: str, layer: str, index: int) -> str:
        width, graph = self._qwen.hidden_size, self._graph
        query, key, value = (linear(self._graph, x, f"{layer}.{part}_proj", width) for part in "qkv")
        caches = ("cos_cache", "sin_cache")
        if self._positions:
            query, key = (
                graph.node("RotaryEmbedding", projected, self._positions, *caches, domain=MICROSOFT)
                for projected in (query, key)
            )
        rotary: tuple[str, ...] = () if self._positions else caches
        mixed = self._attend(
            index, f"{layer}.mixed", (query, key, value), rotary, do_rotary=len(rotary) // 2, rotary_interleaved=0
        )
        return linear(self._graph, mixed, f"{layer}.o_proj", width)

    def _feed_forward(self, x: str, layer: str) -> str:
        width, inner = self._qwen.hidden_size, self._qwen.intermediate_size
        gate = linear(self._graph, x, f"{layer}.gate_proj", width)
        # x * sigmoid(x) in one operation.
        gate = self._graph.node("QuickGelu", gate, domain=MICROSOFT, alpha=1.0)
        return linear(
            self._graph,
            self._graph.multiply(gate, linear(self._graph, x, f"{layer}.up_proj", width)),
            f"{layer}.down_proj",
            inner,
        )
