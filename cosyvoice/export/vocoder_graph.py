"""The vocoder as a graph that continues an utterance: new mel frames in, the samples they complete out.

Every convolution sees the past only, so its memory is its last inputs. Each has an input of the graph for the
memory, put in front of what is new, and an output for the next one; an utterance begins with zeros, which is
what the reference pads. One graph serves the start, the middle and the end: `first` tells the start, where the
transform has one frame more than hops, and the end is told by nothing but the mel that the caller appends.

Upsampling repeats each frame, so several taps of the convolution behind it meet the same frame. The graph adds
such taps up beforehand, when it is loaded, and so computes every sample between two frames at the lower rate.

A Snake activation is x + sin²(alpha x) / alpha, with an alpha for each channel. Convolutions take over the scales: the
one before gives alpha x, the one behind takes alpha x + sin²(alpha x), and what is left between them are three cheap
operations. This, too, is done to the weights when the graph is loaded.

Inside, signals are images one pixel high: ONNX Runtime has its fastest convolution for images only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from cosyvoice.config.model import HiFTConfig
from cosyvoice.errors import ConfigError
from cosyvoice.export.graph import GraphBuilder, TensorFile
from cosyvoice.hifigan.generator import LAST_SLOPE, POST_KERNEL
from cosyvoice.hifigan.spectrum import MAX_MAGNITUDE
from cosyvoice.native.f0_predictor import WEIGHT_NORM_NAMES, normalised_weight
from cosyvoice.native.vocoder import GRAPH_NAME

SMALLEST_ALPHA = 1e-6
"""Below it a Snake activation is the identity within rounding; it takes the place of a smaller alpha, which would be
divided by."""
TIME = 3
"""Axis of time in [batch, channels, 1, time]."""
END = np.iinfo(np.int64).max


def fold_weight_norm(weights: Mapping[str, NDArray[Any]], keep: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """`weights` with every weight norm replaced by the weight it stands for, under the name `X.weight`.

    Both spellings are known, `X.weight_g` with `X.weight_v` and PyTorch's parametrizations. The arithmetic is
    double precision, the result has the type of the direction. Layers whose name starts with one of `keep`
    stay as they are: an F0 predictor that runs in double precision needs weights that were not rounded.
    """
    folded: dict[str, NDArray[Any]] = {}
    for name, value in weights.items():
        if name.startswith(keep):
            folded[name] = value
            continue
        for gain, direction in WEIGHT_NORM_NAMES:
            layer = name.removesuffix(f".{direction}")
            if layer != name:
                weight = normalised_weight(weights[f"{layer}.{gain}"], value)
                folded[f"{layer}.weight"] = weight.astype(value.dtype)
                break
            if name.endswith(f".{gain}"):
                break
        else:
            folded[name] = value
    return folded


def build_vocoder(tensors: TensorFile, config: HiFTConfig, directory: Path) -> None:
    """Write the graph into `directory`, beside the file of `tensors` (weight norms folded).

    Inputs: `mel` [1, in_channels, frames + conv_pre_look_right]; `spectrum` [1, n_fft + 2, frames * rate], where
    rate is the product of the upsampling rates, with one frame more at the start; `first` int64 [1], 1 at the
    start and 0 later; a memory for each convolution under the convolution's name. Outputs: `samples`
    [1, 1, time], windowed and overlapped but not divided by the windows' sum; each memory as `NAME.next`.

    Raises `ConfigError` for a geometry that cannot be continued from chunk to chunk.
    """
    check_geometry(config)
    _CausalGraph(tensors, config).save(Path(directory) / GRAPH_NAME)


def check_geometry(config: HiFTConfig) -> None:
    """Refuse what the vocoder cannot compute chunk by chunk (`ConfigError`)."""
    n_fft, hop = config.istft_n_fft, config.istft_hop
    if n_fft % 2 or not hop <= n_fft < 2 * hop * math.prod(config.upsample_rates):
        raise ConfigError(
            f"hift.istft_n_fft is {n_fft}; chunks need an even one, at least istft_hop and below two mel hops"
        )
    if config.conv_pre_look_right < 1:
        raise ConfigError("hift.conv_pre_look_right is 0; chunks need at least 1 frame for the edge of the transform")


class Scales(NamedTuple):
    """Values [channels] for the channels of a convolution."""

    taken: str
    """What its input has been multiplied by."""
    given: str = ""
    """What its output is to be multiplied by; none by default."""


class VocoderGraph(ABC):
    """What the graphs of all generations share; they differ in what a convolution sees."""

    def __init__(self, tensors: TensorFile, config: HiFTConfig) -> None:
        self.config = config
        self.graph = GraphBuilder("vocoder", tensors)

    @abstractmethod
    def convolve_same(self, name: str, x: str, kernel: int, dilation: int = 1, scales: Scales | None = None) -> str:
        """Convolution of the layer `name` that keeps the length."""

    @abstractmethod
    def upsample(self, stage: int, x: str) -> str:
        """The upsampling layer of `stage`."""

    @abstractmethod
    def reflect(self, x: str) -> str:
        """The second frame of the utterance also in front of it."""

    @abstractmethod
    def downsample(self, stage: int, spectrum: str, rate: int) -> str:
        """The source's transform at the rate of `stage`, which is `rate` times lower."""

    def body(self, x: str, spectrum: str) -> str:
        """From the output of the first convolution to overlapped samples [1, 1, time]."""
        graph, config = self.graph, self.config
        stages = len(config.upsample_rates)
        for stage in range(stages):
            x = self.upsample(stage, graph.node("LeakyRelu", x, alpha=config.lrelu_slope))
            if stage == stages - 1:
                x = self.reflect(x)
            kernel = config.source_resblock_kernel_sizes[stage]
            dilations = config.source_resblock_dilation_sizes[stage]
            source = self.downsample(stage, spectrum, math.prod(config.upsample_rates[stage + 1 :]))
            x = self._stage(stage, x, self._residual(f"source_resblocks.{stage}", source, kernel, dilations))
        head = self.convolve_same("conv_post", graph.node("LeakyRelu", x, alpha=LAST_SLOPE), POST_KERNEL)
        return self._inverse(head)

    def inputs(self) -> tuple[str, str]:
        """Mel and spectrum, declared, as images."""
        graph, config = self.graph, self.config
        mel = graph.input("mel", [1, config.in_channels, "mel_frames"])
        spectrum = graph.input("spectrum", [1, config.istft_n_fft + 2, "spectrum_frames"])
        return graph.node("Unsqueeze", mel, graph.ints(2)), graph.node("Unsqueeze", spectrum, graph.ints(2))

    def convolve(
        self,
        name: str,
        x: str,
        dilation: int = 1,
        stride: int = 1,
        pads: tuple[int, int] = (0, 0),
        scales: Scales | None = None,
    ) -> str:
        """Convolution with the weights of the layer `name`, with so many zeros before and behind."""
        graph = self.graph
        weight = graph.node("Unsqueeze", graph.weight(f"{name}.weight"), graph.ints(2))
        bias = graph.weight(f"{name}.bias")
        if scales is not None:
            weight = graph.node("Div", weight, graph.reshape(scales.taken, 1, -1, 1, 1))
        if scales is not None and scales.given:
            weight = graph.multiply(weight, graph.reshape(scales.given, -1, 1, 1, 1))
            bias = graph.multiply(bias, scales.given)
        around = [0, pads[0], 0, pads[1]]
        return str(graph.node("Conv", x, weight, bias, dilations=[1, dilation], strides=[1, stride], pads=around))

    def upsample_by_phase(
        self, name: str, weight: str, inputs: int, outputs: int, select: NDArray[np.float32]
    ) -> tuple[str, str]:
        """Weight [outputs * rate, inputs, 1, taps] and bias of an upsampling layer whose phases are channels.

        `weight` [outputs, inputs, kernel] is what ONNX Runtime folds with `select` [kernel, rate, taps] when it
        loads the graph.
        """
        graph = self.graph
        kernel, rate, taps = select.shape
        weight = graph.node("MatMul", weight, graph.constant(select.reshape(kernel, -1)))
        weight = graph.node("Transpose", graph.reshape(weight, outputs, inputs, rate, taps), perm=[0, 2, 1, 3])
        weight = graph.reshape(weight, outputs * rate, inputs, 1, taps)
        bias = graph.node("Expand", graph.reshape(graph.weight(f"{name}.bias"), outputs, 1), graph.ints(outputs, rate))
        return weight, graph.reshape(bias, outputs * rate)

    def interleave(self, x: str, outputs: int, rate: int) -> str:
        """[1, outputs * rate, 1, time], the phases of a sample as channels, to [1, outputs, 1, time * rate]."""
        graph = self.graph
        x = graph.node("Transpose", graph.reshape(x, outputs, rate, -1), perm=[0, 2, 1])
        return graph.reshape(x, 1, outputs, 1, -1)

    def _stage(self, stage: int, x: str, source: str) -> str:
        """The mean of the residual blocks of a stage."""
        graph, config = self.graph, self.config
        x = graph.add(x, source)
        kernels = config.resblock_kernel_sizes
        branches = [
            self._residual(f"resblocks.{stage * len(kernels) + index}", x, kernel, dilations)
            for index, (kernel, dilations) in enumerate(zip(kernels, config.resblock_dilation_sizes, strict=True))
        ]
        if len(branches) == 1:
            return branches[0]
        return str(graph.node("Div", graph.node("Sum", *branches), graph.constant(len(branches))))

    def _residual(self, name: str, x: str, kernel: int, dilations: tuple[int, ...]) -> str:
        graph = self.graph
        for index, dilation in enumerate(dilations):
            first, second = (self._alpha(f"{name}.activations{part}.{index}") for part in (1, 2))
            y = self._snake(graph.multiply(x, graph.reshape(first, -1, 1, 1)))
            y = self.convolve_same(f"{name}.convs1.{index}", y, kernel, dilation, Scales(first, second))
            y = self.convolve_same(f"{name}.convs2.{index}", self._snake(y), kernel, scales=Scales(second))
            x = graph.add(x, y)
        return x

    def _alpha(self, name: str) -> str:
        """Alpha [channels] of a Snake activation, no smaller than what can be divided by."""
        graph = self.graph
        alpha = graph.reshape(graph.weight(f"{name}.alpha"), -1)
        smallest = graph.constant(SMALLEST_ALPHA)
        return str(graph.node("Where", graph.node("Less", graph.node("Abs", alpha), smallest), smallest, alpha))

    def _snake(self, x: str) -> str:
        """x + sin² x: the activation times alpha, of its input times alpha."""
        sine = self.graph.node("Sin", x)
        return self.graph.add(x, self.graph.multiply(sine, sine))

    def _inverse(self, head: str) -> str:
        """Inverse transform and overlapping addition of `head` [1, n_fft + 2, 1, frames]."""
        graph, config = self.graph, self.config
        head = graph.node("Squeeze", head, graph.ints(2))
        log_magnitude, phase = graph.node("Split", head, outputs=2, axis=1, num_outputs=2)
        magnitude = graph.node("Min", graph.node("Exp", log_magnitude), graph.constant(MAX_MAGNITUDE))
        if not config.free_phase:
            phase = graph.node("Sin", phase)
        real = graph.multiply(magnitude, graph.node("Cos", phase))
        imaginary = graph.multiply(magnitude, graph.node("Sin", phase))
        spectrum = graph.concat(real, imaginary, axis=1)
        basis = graph.constant(inverse_basis(config.istft_n_fft)[:, None])
        return str(graph.node("ConvTranspose", spectrum, basis, strides=[config.istft_hop]))


class _CausalGraph(VocoderGraph):
    """Continues an utterance: every layer has a memory."""

    def save(self, path: Path) -> None:
        """Write the graph."""
        mel, spectrum = self.inputs()
        self._first = self.graph.input("first", [1], TensorProto.INT64)
        self.graph.output(self.body(self.convolve("conv_pre", mel), spectrum), "samples", [1, 1, "time"])
        self.graph.save(path)

    def _memory(self, name: str, x: str, channels: int, length: int) -> str:
        """`x` behind the memory of the layer `name`, whose next memory is the end of both."""
        if length == 0:
            return x
        graph = self.graph
        memory = graph.input(name, [1, channels, 1, length])
        x = graph.concat(memory, x, axis=TIME)
        graph.output(graph.slice(x, -length, END, axis=TIME), f"{name}.next", [1, channels, 1, length])
        return x

    def convolve_same(self, name: str, x: str, kernel: int, dilation: int = 1, scales: Scales | None = None) -> str:
        inputs = self.graph.tensors.shape(f"{name}.weight")[1]
        return self.convolve(name, self._memory(name, x, inputs, dilation * (kernel - 1)), dilation, scales=scales)

    def upsample(self, stage: int, x: str) -> str:
        graph, name, rate = self.graph, f"ups.{stage}", self.config.upsample_rates[stage]
        outputs, inputs, kernel = graph.tensors.shape(f"{name}.weight")
        select = phase_taps(kernel, rate)
        weight, bias = self.upsample_by_phase(name, graph.weight(f"{name}.weight"), inputs, outputs, select)
        x = self._memory(name, x, inputs, select.shape[2] - 1)
        return self.interleave(graph.node("Conv", x, weight, bias), outputs, rate)

    def reflect(self, x: str) -> str:
        graph = self.graph
        one = graph.ints(1)
        mirrored = graph.node("Slice", x, one, graph.add(self._first, one), graph.ints(TIME))
        return graph.concat(mirrored, x, axis=TIME)

    def downsample(self, stage: int, spectrum: str, rate: int) -> str:
        graph, name = self.graph, f"source_downs.{stage}"
        if rate > 1:
            # At the start, the frame of the transform that is one too many takes the place of a zero.
            spectrum = self._memory(name, spectrum, self.config.istft_n_fft + 2, rate)
            spectrum = graph.node("Slice", spectrum, self._first, graph.ints(END), graph.ints(TIME))
        return self.convolve(name, spectrum, stride=rate)


def phase_taps(kernel: int, rate: int) -> NDArray[np.float32]:
    """Which taps of a causal convolution meet which frame, where each frame was repeated `rate` times.

    [kernel, rate, taps]: 1 where, for the sample `phase` behind a frame, a tap of the kernel falls on the frame
    `taps - 1` ... 0 frames before.
    """
    taps = -(-(kernel - 1) // rate) + 1
    select = np.zeros((kernel, rate, taps), np.float32)
    for tap in range(kernel):
        for phase in range(rate):
            select[tap, phase, taps - 1 + (phase - (kernel - 1) + tap) // rate] = 1
    return select


def inverse_basis(n_fft: int) -> NDArray[np.float32]:
    """[n_fft + 2, n_fft]: real over imaginary parts to windowed samples, with a periodic Hann window."""
    bins, time = np.arange(n_fft // 2 + 1), np.arange(n_fft)
    angle = 2 * np.pi * np.outer(bins, time) / n_fft
    # Every bin but the first and the last stands for its mirror image as well.
    share = np.where((bins == 0) | (bins == n_fft // 2), 1.0, 2.0)[:, None] / n_fft
    window = 0.5 - 0.5 * np.cos(2 * np.pi * time / n_fft)
    return (np.concatenate([np.cos(angle) * share, -np.sin(angle) * share]) * window).astype(np.float32)
