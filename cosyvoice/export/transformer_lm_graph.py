"""The first generation's language model as two ONNX graphs: one encodes a prompt's text, one is the decoder.

The decoder's graph is that of the later generations in form: fused attention on key-value buffers of the caller, to
which distances come as an additive bias. Its projections of the distances are inputs, the same for every step.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from onnx import TensorProto

from cosyvoice.config.model import TransformerLMConfig
from cosyvoice.export.encoder_graph import EncoderGraph
from cosyvoice.export.graph import MICROSOFT, GraphBuilder, TensorFile
from cosyvoice.export.grouped_attention import GroupedAttention
from cosyvoice.export.linear import linear

HEAD = "llm_decoder"


def build_transformer_lm(tensors: TensorFile, config: TransformerLMConfig, directory: Path, name: str) -> Path:
    """Write both graphs beside their weights; returns the path of the decoder's, `name`.

    Inputs and outputs of the decoder are those of `build_llm`, but for the rotary tables. Instead of them there is an
    input distances_I [positions, heads, head_dim] of each layer I: projected sinusoids of the distances 0 and on, as
    many as the longest sequence has positions.

    Raises `ModelError` for tensors that do not fit `config`.
    """
    path = Path(directory) / name
    _write_decoder(tensors, config, path)
    _write_text_encoder(tensors, config, Path(directory) / "text_encoder.onnx")
    return path


def _write_decoder(tensors: TensorFile, config: TransformerLMConfig, path: Path) -> None:
    graph = GraphBuilder("llm", tensors)
    encoder = EncoderGraph(graph, "llm", config.llm)
    embeddings = graph.input("embeddings", ["batch", "rows", config.llm.input_size])
    ends = graph.input("seqlens_k", ["batch"], TensorProto.INT32)
    total = graph.input("total_sequence_length", [], TensorProto.INT32)
    last = graph.input("last", ["batch"], TensorProto.INT64)
    fused = GroupedAttention(graph, encoder.heads, encoder.heads, encoder.head_dim)
    places = _places(graph, ends, graph.node("Cast", total, to=TensorProto.INT64))

    def attend(index: int, query: str, key: str, value: str, bias: str) -> str:
        return fused(index, f"llm.encoders.{index}.mixed", (query, key, value), ("", "", "", bias), do_rotary=0)

    x = encoder.embed(embeddings)
    for index in range(config.llm.num_blocks):
        distances = graph.input(f"distances_{index}", ["positions", encoder.heads, encoder.head_dim])
        x = encoder.layer(x, f"encoders.{index}", distances, places, partial(attend, index))
    # The head is as wide as the vocabulary: only the rows that are asked for go on.
    x = graph.node("GatherND", x, graph.node("Unsqueeze", last, graph.ints(1)), batch_dims=1)
    logits = linear(graph, encoder.norm(x, "after_norm", 1e-5), HEAD, config.llm.output_size)
    graph.node("LogSoftmax", logits, names=["log_probs"], axis=-1)
    graph.output_as("log_probs", ["batch", config.speech_token_size + config.speech_extra_tokens])
    graph.save(path)


def _places(graph: GraphBuilder, ends: str, keys: str) -> str:
    """Distances [batch, 1, rows, keys] of new rows, of which the last is at `ends` [batch], to `keys` positions.

    What lies ahead of a row is masked, and takes the distance 0.
    """
    rows = graph.node("Squeeze", graph.node("Shape", "embeddings", start=1, end=2))
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    back = graph.node("Range", graph.node("Sub", one, rows), one, one)
    positions = graph.node("Unsqueeze", graph.node("Cast", ends, to=TensorProto.INT64), graph.ints(1, 2, 3))
    positions = graph.add(positions, graph.node("Unsqueeze", back, graph.ints(1)))
    return _behind(graph, positions, graph.node("Range", zero, keys, one))


def _behind(graph: GraphBuilder, queries: str, keys: str) -> str:
    return str(graph.node("Max", graph.node("Sub", queries, keys), graph.constant(0, np.int64)))


def _write_text_encoder(tensors: TensorFile, config: TransformerLMConfig, path: Path) -> None:
    """Input: ids int64 [text]. Output: encoded [text, channels], rows for the decoder."""
    graph = GraphBuilder("text_encoder", tensors)
    encoder = EncoderGraph(graph, "text_encoder", config.text_encoder)
    ids = graph.input("ids", ["text"], TensorProto.INT64)
    # The table is looked up in the type that the file keeps it in: widened, it would be in memory as a whole.
    rows = graph.node("Gather", graph.raw("text_embedding.weight"), ids)
    x = graph.node("Unsqueeze", graph.node("Cast", rows, to=TensorProto.FLOAT), graph.ints(0))
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    places = graph.node("Range", zero, graph.node("Squeeze", graph.node("Shape", ids)), one)
    queries = graph.node("Unsqueeze", places, graph.ints(0, 1, 3))
    behind = _behind(graph, queries, places)
    ahead = graph.node("Greater", places, queries)
    sinusoids = encoder.sinusoids(graph.node("Cast", places, to=TensorProto.FLOAT))

    def attend(query: str, key: str, value: str, bias: str) -> str:
        bias = graph.node("Where", ahead, graph.constant(-np.inf), bias)
        return str(
            graph.node("MultiHeadAttention", query, key, value, "", "", bias, domain=MICROSOFT, num_heads=encoder.heads)
        )

    x = encoder.embed(x)
    for index in range(config.text_encoder.num_blocks):
        name = f"encoders.{index}"
        x = encoder.layer(x, name, encoder.distances(name, sinusoids), behind, attend)
    x = encoder.norm(x, "after_norm", 1e-5)
    encoded = linear(graph, x, "text_encoder_affine_layer", config.text_encoder.output_size)
    graph.output(graph.node("Squeeze", encoded, graph.ints(0)), "encoded", ["text", config.llm.input_size])
    graph.save(path)
