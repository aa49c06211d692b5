"""The fixed noises of the models, drawn by NumPy from the stream of PyTorch's CPU generator.

Both libraries run the Mersenne Twister MT19937 and seed it alike, so only the ways from its 32-bit numbers to
floating point have to be repeated: 24 bits for a uniform number, and the Box-Muller transform on blocks of 16
for normal ones. Uniform numbers are bit-exact; normal ones differ by rounding, as they do between two builds
of PyTorch. A noise makes streams, and a stream that belongs to one utterance goes on where it stopped.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

import numpy as np

from cosyvoice.config.model import AnyFlowConfig, HiFTConfig
from cosyvoice.engine.stages import FloatArray
from cosyvoice.errors import ConfigError
from cosyvoice.native.f0_predictor import KERNEL_SIZES

FLOW_NOISE_FRAMES = 15000
"""Mel frames of the released start noise: 300 s at 50 frames a second."""
_BLOCK = 16
"""Values that one block of PyTorch's normal numbers holds."""


class NoiseStream(Protocol):
    """Noise from a position on."""

    def take(self, length: int) -> FloatArray:
        """The next [length, channels]."""
        ...


class SourceNoise(Protocol):
    """Noise of unit scale by sample position, the same for every utterance. Safe from many threads."""

    def stream(self, start: int = 0) -> NoiseStream:
        """The noise from sample `start` on; the stream is the caller's own."""
        ...

    def __call__(self, length: int, start: int = 0) -> FloatArray:
        """Samples `start` to `start + length` as [length, channels]."""
        ...


class TorchGenerator:
    """The numbers that `torch.Generator().manual_seed(seed)` gives on the CPU, in the order of its draws."""

    def __init__(self, seed: int = 0) -> None:
        self._bits = np.random.MT19937()
        # Only the legacy seeding fills the state as PyTorch does.
        seeded: Any = np.random.RandomState(seed).get_state(legacy=False)
        self._bits.state = seeded

    def copy(self) -> TorchGenerator:
        """A generator that goes on from here on its own."""
        return copy.deepcopy(self)

    def skip(self, count: int) -> None:
        """Pass over `count` numbers without keeping them."""
        self._bits.random_raw(count, output=False)

    def uniform(self, count: int) -> FloatArray:
        """What `torch.rand(count)` gives: [count] in [0, 1), with 24 random bits each."""
        low = self._bits.random_raw(count) & np.uint64((1 << 24) - 1)
        return low.astype(np.float32) * np.float32(2.0**-24)

    def normal(self, count: int) -> FloatArray:
        """What `torch.randn(count)` gives, [count]. Raises `ConfigError` below one block of 16."""
        _check_block(count)
        uniform = self.uniform(count)
        if count % _BLOCK == 0:
            return _box_muller(uniform)
        # Where the blocks do not fill the length, PyTorch draws the last 16 values anew, as a block of their own.
        values = _box_muller(uniform[: count - count % _BLOCK])
        return np.concatenate([values[: count - _BLOCK], _box_muller(self.uniform(_BLOCK))])

    def skip_normal(self, count: int) -> None:
        """Pass over the numbers that `normal(count)` draws."""
        _check_block(count)
        self.skip(count + (_BLOCK if count % _BLOCK else 0))


def released_start_noise(channels: int = 80, frames: int = FLOW_NOISE_FRAMES) -> FloatArray:
    """Standard normal [channels, frames], within rounding the start noise of the released flow models.

    Only the released shape (80, 15000) has the released values: the draws fill the array row by row.
    """
    return TorchGenerator(0).normal(channels * frames).reshape(channels, frames)


class PeriodicNoise:
    """Standard normal noise that repeats after `period` samples (2.7 s at 24 kHz by default)."""

    def __init__(self, channels: int, seed: int = 0, period: int = 65536) -> None:
        self.buffer: FloatArray = np.random.default_rng(seed).standard_normal((period, channels), dtype=np.float32)

    def stream(self, start: int = 0) -> NoiseStream:
        """See `SourceNoise`."""
        return _PeriodicStream(self.buffer, start)

    def __call__(self, length: int, start: int = 0) -> FloatArray:
        """See `SourceNoise`."""
        return self.stream(start).take(length)


class _PeriodicStream:
    def __init__(self, buffer: FloatArray, start: int) -> None:
        self._buffer, self._position = buffer, start

    def take(self, length: int) -> FloatArray:
        period = len(self._buffer)
        begin = self._position % period
        self._position += length
        if begin + length <= period:
            return self._buffer[begin : begin + length]
        positions = np.arange(begin, begin + length) % period
        return np.asarray(self._buffer[positions])


class ReleasedNoise:
    """The fixed random numbers of a released V3 model's source, bit for bit, uniform in [0, 1).

    The released implementation draws them into one long buffer when it is built, behind the noise of the flow
    and the initial values of layers between the two; this walks the same way and keeps 2.5 kB.
    """

    def __init__(self, flow: AnyFlowConfig, hift: HiFTConfig) -> None:
        self.channels = hift.nb_harmonics + 1
        generator = TorchGenerator(0)
        generator.skip_normal(flow.mel_dim * FLOW_NOISE_FRAMES)
        generator.skip_normal(flow.vocab_size * flow.mel_dim)
        generator.skip(_initial_values(flow, hift))
        # Initial phases of the harmonics, which never have an effect.
        generator.skip(self.channels)
        self._start = generator

    def stream(self, start: int = 0) -> NoiseStream:
        """See `SourceNoise`; the numbers before `start` are drawn and dropped, so go on with a stream."""
        generator = self._start.copy()
        generator.skip(start * self.channels)
        return _ReleasedStream(generator, self.channels)

    def __call__(self, length: int, start: int = 0) -> FloatArray:
        """See `SourceNoise`."""
        return self.stream(start).take(length)


class _ReleasedStream:
    def __init__(self, generator: TorchGenerator, channels: int) -> None:
        self._generator, self._channels = generator, channels

    def take(self, length: int) -> FloatArray:
        return self._generator.uniform(length * self._channels).reshape(length, self._channels)


def _initial_values(flow: AnyFlowConfig, hift: HiFTConfig) -> int:
    """Uniform numbers that the parameters between the two noises take for their initial values."""
    count = flow.mel_dim * flow.speaker_embedding_dim + flow.mel_dim
    inputs = hift.in_channels
    for kernel in KERNEL_SIZES:
        count += hift.f0_channels * inputs * kernel + hift.f0_channels
        inputs = hift.f0_channels
    return count + hift.f0_channels + 1


def _box_muller(uniform: FloatArray) -> FloatArray:
    """Normal numbers of uniform ones: in a block of 16, the first 8 give radii and the last 8 angles."""
    pairs = uniform.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(np.float32(-2.0) * np.log(np.float32(1.0) - pairs[:, 0]))
    # An angle near a whole turn is rounded to 5e-7, so it has to be rounded as PyTorch does.
    angle = np.float32(2.0 * math.pi) * pairs[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


def _check_block(count: int) -> None:
    if count < _BLOCK:
        raise ConfigError(f"{count} normal numbers are drawn in another way than long runs; ask for at least {_BLOCK}")
