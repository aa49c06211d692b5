"""Noise of the source signal that depends on nothing but the position of the sample.

A chunk of an utterance must sound as it does in the whole, so the noise at a sample is always the same. The
released V3 draws one long buffer of uniform numbers when it is built, from the seed 0 and behind the random
initialisation of other parts of the model; `ReleasedNoise` walks the same way through the random stream and
then draws only as much of the buffer as an utterance needs, 8.6 MB instead of 259 MB for ten seconds.
`PeriodicNoise` is what our own models use.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cosyvoice.config.model import AnyFlowConfig, HiFTConfig
from cosyvoice.hifigan.f0_predictor import LOOK_RIGHT

FLOW_NOISE_FRAMES = 15000
"""Mel frames of the start noise that the released flow draws from the same stream, before the vocoder's."""
BUFFER_SAMPLES = 300 * 24000
"""Length of the released noise buffer in samples; longer utterances fail there and do not here."""
_SKIP = 1 << 18


class SourceNoise(Protocol):
    """Noise by sample position."""

    def __call__(self, length: int, start: int = 0) -> Tensor:
        """Samples `start` to `start + length` as [1, length, harmonics + 1], float32 on the CPU."""
        ...


class PeriodicNoise:
    """Standard normal noise that repeats after `period` samples (2.7 s at 24 kHz by default)."""

    def __init__(self, channels: int, seed: int = 0, period: int = 65536) -> None:
        values = np.random.default_rng(seed).standard_normal((period, channels), dtype=np.float32)
        self.buffer = torch.from_numpy(values)

    def __call__(self, length: int, start: int = 0) -> Tensor:
        """See `SourceNoise`."""
        positions = torch.arange(start, start + length) % len(self.buffer)
        return self.buffer[positions][None]


class ReleasedNoise:
    """The fixed random numbers of a released V3 model, bit for bit.

    `initial_phase` [1, channels] is drawn by the released implementation and never has an effect: only the
    very first sample carries it, which the reduction to one phase a frame does not read.
    """

    def __init__(self, flow: AnyFlowConfig, hift: HiFTConfig) -> None:
        self.channels = hift.nb_harmonics + 1
        self.mel_dim = flow.mel_dim
        generator = torch.Generator().manual_seed(0)
        torch.randn(1, self.mel_dim, FLOW_NOISE_FRAMES, generator=generator)
        torch.empty(flow.vocab_size, self.mel_dim).normal_(generator=generator)
        for count in _uniform_draws(flow, hift):
            torch.rand(count, generator=generator)
        self.initial_phase = torch.rand(1, self.channels, generator=generator)
        self.initial_phase[:, 0] = 0.0
        self._start = generator.get_state()

    def flow_noise(self) -> Tensor:
        """The start noise of the flow, [1, mel_dim, FLOW_NOISE_FRAMES]."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, self.mel_dim, FLOW_NOISE_FRAMES, generator=generator)

    def __call__(self, length: int, start: int = 0) -> Tensor:
        """See `SourceNoise`; uniform in [0, 1)."""
        generator = torch.Generator()
        generator.set_state(self._start)
        # Uniform numbers fill a tensor in order, so the long buffer can be drawn piece by piece.
        for skipped in range(0, start, _SKIP):
            torch.rand(min(_SKIP, start - skipped), self.channels, generator=generator)
        return torch.rand(1, length, self.channels, generator=generator)


def _uniform_draws(flow: AnyFlowConfig, hift: HiFTConfig) -> list[int]:
    """How many uniform numbers each parameter between the two buffers takes for its initial values."""
    speaker = [flow.mel_dim * flow.speaker_embedding_dim, flow.mel_dim]
    channels = hift.f0_channels
    convolutions = [channels * hift.in_channels * (LOOK_RIGHT + 1), channels]
    convolutions += [channels * channels * 3, channels] * 4
    return [*speaker, *convolutions, channels, 1]
