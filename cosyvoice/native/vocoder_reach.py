"""How far a vocoder sees, and how its work is divided among threads.

The networks see a bounded stretch of their input, so any stretch of samples can be computed by itself from that much
context in front of it (and, where the network sees both sides, behind it). Stretches that run side by side, each on
one thread, keep more cores busy than threads that share each operation: some operations of ONNX Runtime use one
thread only, and the others are too short to be worth waking a thread for.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from cosyvoice.config.model import HiFTConfig

PRE_KERNEL, POST_KERNEL = 7, 7
"""Of the first convolution where it sees both sides, and of the last one."""


def context_frames(config: HiFTConfig) -> int:
    """Mel frames that a sample depends on at most, of the mel or of the source: to either side, or of the past alone
    where the network is causal."""

    # A kernel lies around a sample, or ends with it.
    def span(kernel: int) -> int:
        return kernel - 1 if config.causal else kernel // 2

    def block(kernel: int, dilations: Iterable[int]) -> int:
        return sum((dilation + 1) * span(kernel) for dilation in dilations)

    # Counted from the samples upwards: frames of the transform, then of each stage at its own rate.
    reach, rate, source_reach = config.istft_n_fft // config.istft_hop + span(POST_KERNEL) + 1, 1, 0
    branches = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
    for stage in reversed(range(len(config.upsample_rates))):
        reach += max(block(kernel, dilations) for kernel, dilations in branches)
        source = block(config.source_resblock_kernel_sizes[stage], config.source_resblock_dilation_sizes[stage])
        source_reach = max(source_reach, (reach + source + 2) * rate)
        up = config.upsample_rates[stage]
        reach, rate = (reach + config.upsample_kernel_sizes[stage]) // up + 1, rate * up
    # The first convolution of a causal network sees the future only.
    return max(reach if config.causal else reach + span(PRE_KERNEL), -(-source_reach // rate))


def stretches(begin: int, end: int, context: int, threads: int) -> list[tuple[int, int]]:
    """Frames `begin` to `end` in consecutive stretches that take equally long, each but the first with `context`
    frames in front of it; as many as pay, at most one a thread."""
    count = end - begin
    lanes = max(min(threads, count // max(context, 1)), 1)
    longest = (count + (lanes - 1) * context) / lanes
    bounds = [begin, *(begin + round(longest + lane * (longest - context)) for lane in range(lanes - 1)), end]
    return list(pairwise(bounds))
