"""The losses on scores small enough to work out by hand."""

from __future__ import annotations

import pytest
import torch

from cosyvoice.hifigan.discriminator import Verdict
from cosyvoice.hifigan.losses import (
    GANWeights,
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    discriminator_loss,
    feature_match_loss,
    generator_loss,
    tpr_loss,
)


def verdict(*scores: float) -> Verdict:
    score = torch.tensor([scores])
    return Verdict(score, [score * 2, score])


def test_least_squares() -> None:
    real, fake = [verdict(1.0, 0.0), verdict(1.0)], [verdict(0.5, 0.0), verdict(0.0)]
    assert adversarial_generator_loss(fake).item() == pytest.approx((0.25 + 1) / 2 + 1)
    assert adversarial_discriminator_loss(real, fake).item() == pytest.approx(0.5 + 0.125 + 0 + 0)


def test_feature_matching_counts_every_map_twice() -> None:
    real, fake = [verdict(1.0, 3.0)], [verdict(0.0, 1.0)]
    # Mean distances: 3 for the first map, 1.5 for the scores.
    assert feature_match_loss(real, fake).item() == pytest.approx(9.0)


def test_relative_loss_takes_the_differences_below_the_median() -> None:
    first, second = [verdict(0.0, 0.1, 0.5)], [verdict(0.0, 0.0, 0.0)]
    # The median difference is 0.1, only 0 lies below it: (0 - 0.1)² = 0.01.
    assert tpr_loss(first, second, tau=0.04).item() == pytest.approx(0.01)
    assert tpr_loss(first, second, tau=0.004).item() == pytest.approx(0.004)


def test_relative_loss_of_equal_scores_is_zero() -> None:
    same = [verdict(0.5, 0.5, 0.5)]
    assert tpr_loss(same, same, tau=0.04).item() == 0.0


def test_totals_are_the_weighted_sums() -> None:
    real, fake = [verdict(1.0, 0.2, 0.4)], [verdict(0.3, 0.1, 0.9)]
    weights = GANWeights(mel=3.0, feature_match=5.0, tpr=7.0, tpr_tau=0.5, f0=11.0)
    mels, pitches = torch.randn(2, 1, 80, 4), torch.rand(2, 1, 4)
    turn = generator_loss(real, fake, mels[0], mels[1], pitches[0], pitches[1], weights)
    expected = turn.adversarial + 5 * turn.feature_match + 3 * turn.mel + 7 * turn.tpr + 11 * turn.f0
    assert turn.total.item() == pytest.approx(expected.item())
    assert turn.tpr.item() == pytest.approx(tpr_loss(fake, real, 0.5).item())
    turn_d = discriminator_loss(real, fake, weights)
    assert turn_d.total.item() == pytest.approx((turn_d.adversarial + 7 * turn_d.tpr).item())
    assert turn_d.tpr.item() == pytest.approx(tpr_loss(real, fake, 0.5).item())
