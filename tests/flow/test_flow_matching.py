from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cosyvoice.config.model import CFMConfig
from cosyvoice.flow.flow_matching import ConditionalFlowMatching, Conditions, FlowMatchingDraws


class Affine(nn.Module):
    """A velocity that can be checked by hand: mu plus the mean of speaker and prompt mel."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(
        self, x: Tensor, mask: Tensor, mu: Tensor, t: Tensor, spks: Tensor, cond: Tensor, streaming: bool
    ) -> Tensor:
        self.batches.append(len(x))
        assert len(x) == len(mask) == len(mu) == len(t) == len(spks) == len(cond)
        return mu + spks.mean(1).view(-1, 1, 1) + cond


def conditions(lengths: tuple[int, ...] = (4, 4)) -> Conditions:
    generator = torch.Generator().manual_seed(2)
    batch, size = len(lengths), max(lengths)
    mask = (torch.arange(size) < torch.tensor(lengths)[:, None]).unsqueeze(1).float()
    return Conditions(
        mu=torch.randn(batch, 3, size, generator=generator),
        mask=mask,
        spks=torch.randn(batch, 5, generator=generator),
        cond=torch.randn(batch, 3, size, generator=generator),
    )


def given_velocity(c: Conditions) -> Tensor:
    return c.mu + c.spks.mean(1).view(-1, 1, 1) + c.cond


def test_guidance_extrapolates_from_the_unconditional_velocity() -> None:
    estimator, c = Affine(), conditions()
    cfm = ConditionalFlowMatching(CFMConfig(), estimator)
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    # The unconditional velocity of this estimator is 0.
    guided = cfm.sample(noise, c, cfg_rate=0.7)
    assert torch.allclose(guided, noise + 1.7 * given_velocity(c), atol=1e-5)
    assert estimator.batches == [4] * 10
    estimator.batches.clear()
    plain = cfm.sample(noise, c, cfg_rate=0, n_timesteps=3, solver="rk4")
    assert torch.allclose(plain, noise + given_velocity(c), atol=1e-5)
    assert estimator.batches == [2] * 12


def test_conditions_are_dropped_together() -> None:
    kept = conditions().kept(torch.tensor([True, False]))
    for name in ("mu", "spks", "cond"):
        assert torch.equal(getattr(kept, name)[0], getattr(conditions(), name)[0])
        assert not getattr(kept, name)[1].any()
    assert torch.equal(kept.mask, conditions().mask)


def test_loss_averages_over_real_frames_only() -> None:
    c = conditions((4, 2))
    cfm = ConditionalFlowMatching(CFMConfig(sigma_min=0.1, training_cfg_rate=0.2), Affine())
    mel = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(8))
    draws = FlowMatchingDraws(
        t=torch.full((2, 1, 1), 0.3), noise=torch.ones(2, 3, 4), condition=torch.tensor([0.9, 0.2])
    )
    squared = (given_velocity(c.kept(torch.tensor([True, False]))) - (mel - 0.9)).square()
    expected = (squared[0].sum() + squared[1, :, :2].sum()) / (6 * 3)
    assert cfm.loss(mel, c, draws, False) == pytest.approx(float(expected), rel=1e-5)


def test_the_estimator_is_trained_on_the_straight_path() -> None:
    seen = []

    class Spy(Affine):
        def forward(self, x: Tensor, *args: Tensor, **kwargs: bool) -> Tensor:
            seen.append((x, args[2], kwargs["streaming"]))
            return torch.zeros_like(x)

    mel, noise = torch.full((2, 3, 4), 2.0), torch.full((2, 3, 4), -1.0)
    t = torch.tensor([0.0, 0.5]).view(2, 1, 1)
    draws = FlowMatchingDraws(t=t, noise=noise, condition=torch.ones(2))
    ConditionalFlowMatching(CFMConfig(sigma_min=0), Spy()).loss(mel, conditions(), draws, True)
    x, fed, streaming = seen[0]
    assert x[:, 0, 0].tolist() == [-1.0, 0.5] and fed.tolist() == [0.0, 0.5] and streaming


def test_draws_repeat_for_a_seed_and_spare_the_global_generator() -> None:
    mel, before = torch.zeros(3, 2, 5), torch.get_rng_state()
    first, again, other = (FlowMatchingDraws.sample(mel, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.noise, again.noise) and torch.equal(first.t, again.t)
    assert not torch.equal(first.noise, other.noise)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.t.shape == (3, 1, 1) and first.noise.shape == mel.shape and first.condition.shape == (3,)
