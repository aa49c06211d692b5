"""The flows of the first two generations as graphs: an encoder, which is run once for a call, and the estimator."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto

from cosyvoice.config.model import CausalMaskedDiffConfig, MaskedDiffConfig
from cosyvoice.export.conformer_graph import ConformerGraph
from cosyvoice.export.flow_layers import Layers
from cosyvoice.export.graph import GraphBuilder, TensorFile
from cosyvoice.export.unet_graph import UNetGraph, group_norm
from cosyvoice.native.chunked_flow import GRAPHS
from cosyvoice.native.unet import ENCODER, ESTIMATOR, cache_layout
from cosyvoice.native.upsample_encoder import AHEAD_CONTEXT, up_context

_LEAKY_SLOPE = 0.01
_END = 2**62


def build_masked_diff(tensors: TensorFile, config: MaskedDiffConfig, directory: Path) -> None:
    """Write the graphs of a flow of the first generation beside `tensors`, which holds the weights.

    The encoder has the inputs token int64 [1, tokens]; tokens_cos, tokens_sin, tokens_table of `ConformerGraph`; and,
    for each mel frame, between which rows it lies: low, high int64 [frames], and share [frames, 1] of the higher one.
    Its output is mu [1, frames, mel_dim]. The estimator is that of `UNetGraph`.

    Raises `ModelError` where a tensor is missing.
    """
    graph = GraphBuilder("flow_encoder", tensors)
    layers = Layers(tensors, graph, "")
    encoder = ConformerGraph(tensors, graph, config.encoder, "encoder.")
    h = _embedded(graph, encoder, config.encoder.input_size)
    h = encoder.after_norm(encoder.layers(h, "encoders", config.encoder.num_blocks, "tokens"))
    rows = layers.linear(h, "encoder_proj", config.encoder.output_size)
    low, high = (
        str(graph.node("Gather", rows, graph.input(name, ["frames"], TensorProto.INT64), axis=1))
        for name in ("low", "high")
    )
    between = graph.multiply(str(graph.node("Sub", high, low)), graph.input("share", ["frames", 1]))
    h = str(graph.node("Transpose", graph.add(low, between), perm=[0, 2, 1]))
    for index in range(config.regulator_layers):
        name = f"length_regulator.model.{3 * index}"
        h = str(graph.node("Conv", h, layers.weight(f"{name}.weight"), layers.weight(f"{name}.bias"), pads=[1, 1]))
        h = layers.mish(group_norm(graph, layers, h, f"length_regulator.model.{3 * index + 1}", 1))
    name = f"length_regulator.model.{3 * config.regulator_layers}"
    h = graph.node("Conv", h, layers.weight(f"{name}.weight"), layers.weight(f"{name}.bias"))
    graph.output(str(graph.node("Transpose", h, perm=[0, 2, 1])), "mu", [1, "frames", config.mel_dim])
    graph.save(Path(directory) / ENCODER)
    UNetGraph(tensors, config.unet).save(Path(directory) / ESTIMATOR)


def build_causal_masked_diff(tensors: TensorFile, config: CausalMaskedDiffConfig, directory: Path) -> None:
    """Write the graphs of a flow of the second generation beside `tensors`, which holds the weights.

    The encoder runs on tokens that continue cached ones. Its inputs:

    * token int64 [1, tokens + look-ahead], present float [1, tokens + look-ahead, 1]: 0 for tokens that do not exist.
    * behind [1, width, 2], upsampled [1, width, 2 ratio]: the last inputs of two convolutions.
    * tokens_cos, tokens_sin, tokens_table, frames_cos, frames_sin, frames_table and the caches of `ConformerGraph`,
      first of the layers before the upsampling, then of those behind it.

    Outputs: mu [1, frames, mel_dim], next_behind, next_upsampled, and the keys and values of `ConformerGraph`. The
    estimator is that of `UNetGraph`, for each type of cache.

    Raises `ModelError` where a tensor is missing, `ConfigError` for a U-Net that cannot be run in chunks.
    """
    # Refuses what the engine could not load, before anything is written.
    cache_layout(config.unet)
    width, ratio = config.encoder.output_size, config.token_mel_ratio
    graph = GraphBuilder("flow_encoder", tensors)
    layers = Layers(tensors, graph, "encoder.")
    encoder = ConformerGraph(tensors, graph, config.encoder, "encoder.")
    h = _embedded(graph, encoder, config.encoder.input_size)
    h = graph.multiply(h, graph.input("present", [1, "tokens_and_ahead", 1]))
    h = str(graph.node("Transpose", _looked_ahead(graph, layers, config, h), perm=[0, 2, 1]))
    h = encoder.layers(h, "encoders", config.encoder.num_blocks, "tokens", "past")
    # Each row stands for the frames of a token.
    h = str(graph.node("Tile", graph.node("Unsqueeze", h, graph.ints(2)), graph.ints(1, 1, ratio, 1)))
    h = str(graph.node("Transpose", graph.reshape(h, 0, -1, width), perm=[0, 2, 1]))
    h = _continued(graph, h, "upsampled", width, up_context(ratio))
    weights = (layers.weight(f"up_layer.conv.{part}") for part in ("weight", "bias"))
    h = str(graph.node("Transpose", graph.node("Conv", h, *weights), perm=[0, 2, 1]))
    h = encoder.embed(h, "up_embed", width)
    h = encoder.after_norm(encoder.layers(h, "up_encoders", config.up_blocks, "frames", "past_frames"))
    mu = Layers(tensors, graph, "").linear(h, "encoder_proj", width)
    graph.output(mu, "mu", [1, "frames", config.mel_dim])
    graph.save(Path(directory) / ENCODER)
    for cache, name in GRAPHS.items():
        UNetGraph(tensors, config.unet, half_cache=cache == "float16").save(Path(directory) / name)


def _embedded(graph: GraphBuilder, encoder: ConformerGraph, inputs: int) -> str:
    """The input token, embedded [1, tokens, width]."""
    token = graph.input("token", [1, "tokens_and_ahead"], TensorProto.INT64)
    return encoder.embed(str(graph.node("Gather", graph.weight("input_embedding.weight"), token)), "embed", inputs)


def _looked_ahead(graph: GraphBuilder, layers: Layers, config: CausalMaskedDiffConfig, x: str) -> str:
    """The look-ahead block on `x` [1, tokens + look-ahead, width] -> [1, width, tokens]."""
    width = config.encoder.output_size
    x = str(graph.node("Transpose", x, perm=[0, 2, 1]))
    first, second = (
        [layers.weight(f"pre_lookahead_layer.{conv}.{part}") for part in ("weight", "bias")]
        for conv in ("conv1", "conv2")
    )
    h = str(graph.node("LeakyRelu", graph.node("Conv", x, *first), alpha=_LEAKY_SLOPE))
    h = str(graph.node("Conv", _continued(graph, h, "behind", width, AHEAD_CONTEXT), *second))
    tokens = graph.node("Shape", h, start=2, end=3)
    return graph.add(h, str(graph.node("Slice", x, graph.ints(0), tokens, graph.ints(2))))


def _continued(graph: GraphBuilder, x: str, name: str, channels: int, context: int) -> str:
    """`x` [1, channels, rows] behind the `context` rows of the input `name`; its last ones are the output next_NAME."""
    x = graph.concat(graph.input(name, [1, channels, context]), x, axis=2)
    graph.output(graph.slice(x, -context, _END, 2), f"next_{name}", [1, channels, context])
    return x
