"""Random numbers of recorded calls: seeds from the record, and the order of the draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cosyvoice.config.model import HiFTConfig
from cosyvoice.errors import ModelError
from cosyvoice.parity.drawn_noise import RecordedDraws, draw, recorded_seed
from cosyvoice.parity.golden import Topic

SAMPLE = HiFTConfig(causal=False, source_phase="sample")
LINEAR = HiFTConfig(causal=False, source_phase="linear")


def test_seeds_stand_in_the_descriptions() -> None:
    meta = {"tensors": {"source": {"desc": "source (manual_seed(60) before)"}, "wav": {"desc": "samples"}}}
    topic = Topic("v1_hift", {}, meta)
    assert recorded_seed(topic, "source") == 60
    for name in ("wav", "other"):
        with pytest.raises(ModelError, match=f"no seed of '{name}'"):
            recorded_seed(topic, name)


def test_draws_follow_the_global_generator() -> None:
    draws = draw(SAMPLE, 5, 2, 40)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        uniform = torch.distributions.Uniform(0.0, 1.0).sample((2, 9, 1))
        noise = torch.randn_like(torch.empty(2, 9, 40))
        unused = torch.randn_like(torch.empty(2, 40, 1))
    assert torch.equal(draws.uniform, uniform[..., 0])
    assert torch.equal(draws.noise, noise.transpose(1, 2))
    assert torch.equal(draws.unused, unused)
    assert torch.all(draws.phases[:, 0] == 0)
    torch.testing.assert_close(draws.phases[:, 1:], (uniform[:, 1:, 0] * 2 - 1) * math.pi)


def test_draws_of_a_transposed_tensor() -> None:
    draws = draw(LINEAR, 5, 1, 40)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        torch.rand(1, 9)
        noise = torch.randn_like(torch.empty(1, 9, 40).transpose(1, 2))
    assert torch.equal(draws.noise, noise)
    assert torch.all(draws.phases == 0)


def test_every_chunk_has_a_seed_of_its_own() -> None:
    draws = RecordedDraws(SAMPLE, 7)
    for seed in (7, 8):
        expected = draw(SAMPLE, seed, 1, 64)
        np.testing.assert_array_equal(draws.phases(), expected.phases[0].numpy())
        np.testing.assert_array_equal(draws.normal(64), expected.noise[0].numpy())
