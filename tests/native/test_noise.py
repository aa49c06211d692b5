"""PyTorch's random stream in NumPy: uniform numbers bit for bit, normal ones within rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cosyvoice.config.model import FlowConfig, HiFTConfig
from cosyvoice.errors import ConfigError
from cosyvoice.flow.noise import released_start_noise as torch_start_noise
from cosyvoice.hifigan import noise as reference
from cosyvoice.native.noise import PeriodicNoise, ReleasedNoise, TorchGenerator, released_start_noise

FLOW = FlowConfig(vocab_size=40, speaker_embedding_dim=6)
HIFT = HiFTConfig(f0_channels=8)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_uniform_numbers_are_those_of_torch(seed: int) -> None:
    ours, theirs = TorchGenerator(seed), torch.Generator().manual_seed(seed)
    for count in (1, 700, 3000):
        np.testing.assert_array_equal(ours.uniform(count), torch.rand(count, generator=theirs).numpy())


@pytest.mark.parametrize("count", [16, 17, 31, 32, 47, 1000, 1008])
def test_normal_numbers_are_those_of_torch(count: int) -> None:
    ours, theirs = TorchGenerator(3), torch.Generator().manual_seed(3)
    np.testing.assert_allclose(ours.normal(count), torch.randn(count, generator=theirs).numpy(), atol=1e-6)
    # Both streams stand at the same place.
    np.testing.assert_array_equal(ours.uniform(5), torch.rand(5, generator=theirs).numpy())
    skipping = TorchGenerator(3)
    skipping.skip_normal(count)
    np.testing.assert_array_equal(skipping.uniform(1000), _after_normal(count))


def _after_normal(count: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(3)
    torch.randn(count, generator=generator)
    return np.asarray(torch.rand(1000, generator=generator).numpy())


def test_few_normal_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="15 normal numbers"):
        TorchGenerator(0).normal(15)


def test_a_copy_goes_on_alone() -> None:
    generator = TorchGenerator(1)
    generator.skip(10)
    copy = generator.copy()
    first = generator.uniform(20)
    np.testing.assert_array_equal(copy.uniform(20), first)
    assert not np.array_equal(generator.uniform(20), first)


def test_start_noise_of_the_flow() -> None:
    ours = released_start_noise()
    assert ours.shape == (80, 15000)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, torch_start_noise()[0].numpy(), atol=1e-6)


def test_released_noise_is_bit_exact_at_any_position() -> None:
    ours, theirs = ReleasedNoise(FLOW, HIFT), reference.ReleasedNoise(FLOW, HIFT)
    for length, start in ((3000, 0), (500, 2000), (9, 600_001)):
        np.testing.assert_array_equal(ours(length, start), theirs(length, start)[0].numpy())


@pytest.mark.parametrize("kind", ["released", "periodic"])
def test_a_stream_goes_on_where_it_stopped(kind: str) -> None:
    noise = ReleasedNoise(FLOW, HIFT) if kind == "released" else PeriodicNoise(9, period=1000)
    stream, other = noise.stream(100), noise.stream()
    pieces = []
    for length in (1, 0, 950, 1200):
        pieces.append(stream.take(length))
        other.take(3)
    assert [piece.shape for piece in pieces] == [(1, 9), (0, 9), (950, 9), (1200, 9)]
    np.testing.assert_array_equal(np.concatenate(pieces), noise(2151, start=100))


def test_periodic_noise_is_that_of_the_reference() -> None:
    ours, theirs = PeriodicNoise(9, seed=3, period=1000), reference.PeriodicNoise(9, seed=3, period=1000)
    for length, start in ((1000, 0), (2500, 900), (10, 123_456)):
        np.testing.assert_array_equal(ours(length, start), theirs(length, start)[0].numpy())
