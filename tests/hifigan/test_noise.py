"""Noise by position: the same sample always gets the same numbers, however it is asked for."""

from __future__ import annotations

import torch

from cosyvoice.config.model import FlowConfig, HiFTConfig
from cosyvoice.hifigan.noise import PeriodicNoise, ReleasedNoise

FLOW = FlowConfig(vocab_size=40, speaker_embedding_dim=6)
HIFT = HiFTConfig(f0_channels=8)


def test_released_noise_is_one_long_buffer() -> None:
    noise = ReleasedNoise(FLOW, HIFT)
    whole = noise(3000)
    assert whole.shape == (1, 3000, 9)
    assert torch.equal(noise(1000), whole[:, :1000])
    assert torch.equal(noise(500, start=2000), whole[:, 2000:2500])
    assert float(whole.min()) >= 0 and float(whole.max()) < 1


def test_released_noise_follows_the_initialisation_of_the_model() -> None:
    """The stream is that of a process that seeds 0 and builds these layers in this order."""
    generator_state = torch.random.get_rng_state()
    try:
        torch.manual_seed(0)
        flow_noise = torch.randn(1, 80, 15000)
        torch.nn.Embedding(40, 80)
        torch.nn.Linear(6, 80)
        torch.nn.Conv1d(80, 8, 4)
        for _ in range(4):
            torch.nn.Conv1d(8, 8, 3)
        torch.nn.Linear(8, 1)
        initial = torch.rand(1, 9)
        initial[:, 0] = 0
        expected = torch.rand(1, 2000, 9)
    finally:
        torch.random.set_rng_state(generator_state)
    noise = ReleasedNoise(FLOW, HIFT)
    assert torch.equal(noise.flow_noise(), flow_noise)
    assert torch.equal(noise.initial_phase, initial)
    assert torch.equal(noise(2000), expected)


def test_noise_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    ReleasedNoise(FLOW, HIFT)(100)
    PeriodicNoise(9)(100)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_periodic_noise_repeats_and_agrees_across_chunks() -> None:
    noise = PeriodicNoise(9, seed=3, period=1000)
    whole = noise(2500)
    assert torch.equal(noise(700, start=900), whole[:, 900:1600])
    assert torch.equal(whole[:, :1000], whole[:, 1000:2000])
    assert abs(float(whole[:, :1000].mean())) < 0.05
    assert abs(float(whole[:, :1000].std()) - 1) < 0.05
    assert not torch.equal(PeriodicNoise(9, seed=4, period=1000)(1000), noise(1000))
