"""The U-Net of the first two generations as a graph: one evaluation of the velocity.

A causal U-Net is run on frames that continue cached ones, so that no attention mask is needed: a run attends to all
cached frames and to all of itself. One that is not causal is run on whole calls.
"""

from __future__ import annotations

from pathlib import Path

from cosyvoice.config.model import UNetConfig
from cosyvoice.export.flow_layers import CachedAttention, Layers
from cosyvoice.export.graph import MICROSOFT, GraphBuilder, TensorFile
from cosyvoice.native.unet import CONVOLUTION_CONTEXT, GROUPS, time_channels

_ESTIMATOR = "decoder.estimator."
_EPS = 1e-5
_END = 2**62


class UNetGraph:
    """Builds one estimator.

    Inputs, with rows = 2 (conditional, unconditional) or 1 (conditional alone):

    * x [1, frames, mel_dim]: the noisy mel, the same for both rows.
    * conditions [rows, frames, 3 mel_dim]: encoder output, speaker and prompt mel.
    * time [1, 4 channels of the first level]: embedded flow time, behind the first Mish of the residual blocks.
    * for a causal U-Net conv1.. [rows, channels, 2], the last inputs of each convolution, and those of
      `CachedAttention`.

    Outputs: velocity [rows, frames, mel_dim]; for a causal U-Net next_conv1.. and those of `CachedAttention`.

    Args:
        tensors: holds the weights.
        config: of the U-Net.
        half_cache: cached keys and values are in half precision.

    Raises `ModelError` where a tensor is missing.
    """

    def __init__(self, tensors: TensorFile, config: UNetConfig, half_cache: bool = False) -> None:
        self._config = config
        self._graph = GraphBuilder("flow", tensors)
        self._layers = Layers(tensors, self._graph, _ESTIMATOR)
        self._heads, self._inner = config.num_heads, config.num_heads * config.attention_head_dim
        self._states = 0
        self._cached = (
            CachedAttention(self._graph, config.num_heads, config.attention_head_dim, half_cache)
            if config.causal
            else None
        )

    def save(self, path: Path) -> None:
        """Write the graph beside its weights."""
        config, graph = self._config, self._graph
        mel = config.out_channels
        noisy = graph.input("x", [1, "frames", mel])
        conditions = graph.input("conditions", ["rows", "frames", config.in_channels - mel])
        self._time = graph.input("time", [1, time_channels(config)])
        rows = graph.node("Shape", conditions, start=0, end=1)
        shape = graph.concat(rows, graph.ints(1, 1), axis=0)
        h = graph.concat(str(graph.node("Expand", noisy, shape)), conditions, axis=2)
        h = graph.node("Transpose", h, perm=[0, 2, 1])
        channels, hidden = config.in_channels, []
        last = len(config.channels) - 1
        for index, width in enumerate(config.channels):
            h = self._level(h, f"down_blocks.{index}", channels, width)
            hidden.append(h)
            h = self._down(h, f"down_blocks.{index}.2.conv") if index < last else self._last(h, f"down_blocks.{index}")
            channels = width
        for index in range(config.num_mid_blocks):
            h = self._level(h, f"mid_blocks.{index}", channels, channels)
        for index, width in enumerate((*config.channels[::-1][1:], config.channels[0])):
            skip = hidden.pop()
            if index:
                # An odd number of frames was rounded up on the way down.
                h = graph.node("Slice", h, graph.ints(0), graph.node("Shape", skip, start=2, end=3), graph.ints(2))
            h = self._level(graph.concat(h, skip, axis=1), f"up_blocks.{index}", 2 * channels, width)
            h = self._up(h, f"up_blocks.{index}.2.conv") if index < last else self._last(h, f"up_blocks.{index}")
            channels = width
        h = self._pointwise(self._block(h, "final_block", channels), "final_proj")
        velocity = graph.node("Transpose", h, perm=[0, 2, 1])
        graph.output(velocity, "velocity", ["rows", "frames", mel])
        graph.save(path)

    def _level(self, x: str, name: str, inputs: int, outputs: int) -> str:
        """Residual block and transformer blocks, [rows, inputs, frames] -> [rows, outputs, frames]."""
        graph = self._graph
        time = self._layers.linear(self._time, f"{name}.0.mlp.1", time_channels(self._config))
        h = graph.add(self._block(x, f"{name}.0.block1", inputs), str(graph.node("Unsqueeze", time, graph.ints(2))))
        h = graph.add(self._block(h, f"{name}.0.block2", outputs), self._pointwise(x, f"{name}.0.res_conv"))
        h = graph.node("Transpose", h, perm=[0, 2, 1])
        for index in range(self._config.n_blocks):
            h = self._transformer(h, f"{name}.1.{index}", outputs)
        return str(graph.node("Transpose", h, perm=[0, 2, 1]))

    def _block(self, x: str, name: str, inputs: int) -> str:
        """Convolution, norm and Mish."""
        graph, causal = self._graph, self._config.causal
        h = self._convolution(x, f"{name}.block.0", inputs)
        if not causal:
            return self._layers.mish(group_norm(graph, self._layers, h, f"{name}.block.1", GROUPS))
        h = self._layers.layer_norm(str(graph.node("Transpose", h, perm=[0, 2, 1])), f"{name}.block.2")
        return self._layers.mish(str(graph.node("Transpose", h, perm=[0, 2, 1])))

    def _convolution(self, x: str, name: str, inputs: int) -> str:
        """A convolution of `inputs` channels that keeps the number of frames."""
        graph, weights = self._graph, [self._layers.weight(f"{name}.{part}") for part in ("weight", "bias")]
        if not self._config.causal:
            return str(graph.node("Conv", x, *weights, pads=[1, 1]))
        self._states += 1
        state = graph.input(f"conv{self._states}", ["rows", inputs, CONVOLUTION_CONTEXT])
        x = graph.concat(state, x, axis=2)
        following = graph.slice(x, -CONVOLUTION_CONTEXT, _END, 2)
        graph.output(following, f"next_conv{self._states}", ["rows", inputs, CONVOLUTION_CONTEXT])
        return str(graph.node("Conv", x, *weights))

    def _last(self, x: str, block: str) -> str:
        """The convolution that stands in the place of a change of rate."""
        channels = self._config.channels[-1] if block.startswith("down") else self._config.channels[0]
        return self._convolution(x, f"{block}.2", channels)

    def _down(self, x: str, name: str) -> str:
        weights = (self._layers.weight(f"{name}.{part}") for part in ("weight", "bias"))
        return str(self._graph.node("Conv", x, *weights, pads=[1, 1], strides=[2]))

    def _up(self, x: str, name: str) -> str:
        weights = (self._layers.weight(f"{name}.{part}") for part in ("weight", "bias"))
        return str(self._graph.node("ConvTranspose", x, *weights, pads=[1, 1], strides=[2]))

    def _pointwise(self, x: str, name: str) -> str:
        return str(
            self._graph.node("Conv", x, self._layers.weight(f"{name}.weight"), self._layers.weight(f"{name}.bias"))
        )

    def _transformer(self, x: str, name: str, channels: int) -> str:
        graph, layers = self._graph, self._layers
        h = layers.layer_norm(x, f"{name}.norm1")
        q, k, v = (layers.product(h, f"{name}.attn1.to_{part}", channels) for part in "qkv")
        if self._cached is not None:
            h = self._cached(q, k, v)
        else:
            h = graph.node("MultiHeadAttention", q, k, v, domain=MICROSOFT, num_heads=self._heads)
        x = graph.add(x, layers.linear(h, f"{name}.attn1.to_out.0", self._inner))
        h = layers.product(layers.layer_norm(x, f"{name}.norm3"), f"{name}.ff.net.0.proj", channels)
        h = graph.node("BiasGelu", h, layers.weight(f"{name}.ff.net.0.proj.bias"), domain=MICROSOFT)
        return graph.add(x, layers.linear(h, f"{name}.ff.net.2", 4 * channels))


def group_norm(graph: GraphBuilder, layers: Layers, x: str, name: str, groups: int) -> str:
    """Norm of `x` [rows, channels, frames] over the channels of a group and all frames."""
    shape = graph.node("Shape", x)
    grouped = graph.reshape(x, 0, groups, -1)
    one, zero = graph.constant([1.0] * groups), graph.constant([0.0] * groups)
    h = graph.node("Reshape", graph.node("InstanceNormalization", grouped, one, zero, epsilon=_EPS), shape)
    scale, shift = (
        graph.node("Unsqueeze", layers.weight(f"{name}.{part}"), graph.ints(1)) for part in ("weight", "bias")
    )
    return graph.add(graph.multiply(str(h), str(scale)), str(shift))
