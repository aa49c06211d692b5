"""The vocoder that sees both sides as a graph: the mel and the source's transform of a chunk in, its samples out.

It has no memories: a chunk is an utterance of its own, with zeros around it. The transposed convolutions become plain
ones whose output channels are the phases of a sample, because ONNX Runtime has a fast convolution and a slow
transposed one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import HiFTConfig
from cosyvoice.errors import ConfigError
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.vocoder_graph import TIME, Scales, VocoderGraph
from cosyvoice.hifigan.generator import PRE_KERNEL, check_symmetry
from cosyvoice.native.vocoder import GRAPH_NAME


def build_hift(tensors: TensorFile, config: HiFTConfig, directory: Path) -> None:
    """Write the graph into `directory`, beside the file of `tensors` (weight norms folded).

    Inputs: `mel` [1, in_channels, frames]; `spectrum` [1, n_fft + 2, frames * rate + 1], where rate is the product of
    the upsampling rates. Output: `samples` [1, 1, time], windowed and overlapped but not divided by the windows' sum.

    Raises `ConfigError` for a geometry that the vocoder cannot have.
    """
    check_symmetry(config)
    if config.istft_n_fft % 2 or config.istft_hop > config.istft_n_fft:
        raise ConfigError(f"hift.istft_n_fft is {config.istft_n_fft}; choose an even one, at least istft_hop")
    _SymmetricGraph(tensors, config).save(Path(directory) / GRAPH_NAME)


class _SymmetricGraph(VocoderGraph):
    """Zeros on both sides of everything."""

    def save(self, path: Path) -> None:
        """Write the graph."""
        mel, spectrum = self.inputs()
        x = self.convolve_same("conv_pre", mel, PRE_KERNEL)
        self.graph.output(self.body(x, spectrum), "samples", [1, 1, "time"])
        self.graph.save(path)

    def convolve_same(self, name: str, x: str, kernel: int, dilation: int = 1, scales: Scales | None = None) -> str:
        context = dilation * (kernel - 1)
        pads = context // 2, context - context // 2
        return self.convolve(name, x, dilation, pads=pads, scales=scales)

    def upsample(self, stage: int, x: str) -> str:
        graph, name, rate = self.graph, f"ups.{stage}", self.config.upsample_rates[stage]
        inputs, outputs, kernel = graph.tensors.shape(f"{name}.weight")
        select, before = transposed_taps(kernel, rate)
        weight = graph.node("Transpose", graph.weight(f"{name}.weight"), perm=[1, 0, 2])
        weight, bias = self.upsample_by_phase(name, weight, inputs, outputs, select)
        behind = select.shape[2] - 1 - before
        return self.interleave(graph.node("Conv", x, weight, bias, pads=[0, before, 0, behind]), outputs, rate)

    def reflect(self, x: str) -> str:
        return self.graph.concat(self.graph.slice(x, 1, 2, axis=TIME), x, axis=TIME)

    def downsample(self, stage: int, spectrum: str, rate: int) -> str:
        return self.convolve(f"source_downs.{stage}", spectrum, stride=rate, pads=(rate // 2, rate // 2))


def transposed_taps(kernel: int, rate: int) -> tuple[NDArray[np.float32], int]:
    """Which taps of a transposed convolution of stride `rate`, cut to `rate` samples a frame, meet which frame.

    [kernel, rate, taps]: 1 where, for the sample `phase` behind a frame, a tap of the kernel falls on a frame in its
    neighbourhood; and how many of those frames lie before it.
    """
    cut = (kernel - rate) // 2
    before, behind = (kernel - 1 - cut) // rate, (rate - 1 + cut) // rate
    select = np.zeros((kernel, rate, before + 1 + behind), np.float32)
    for tap in range(kernel):
        # Frame f gives its tap t to the sample f * rate + t - cut.
        frame, phase = divmod(tap - cut, rate)
        select[tap, phase, before - frame] = 1
    return select, before
