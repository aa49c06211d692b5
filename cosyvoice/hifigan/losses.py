"""Losses of the vocoder's adversarial training: least squares, feature matching, truncated relative.

Every function takes the lists that `MultipleDiscriminator` returns and sums over its discriminators, as the
released training does; a discriminator that is left out therefore also changes the weight of the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cosyvoice.hifigan.discriminator import Verdict


@dataclass(frozen=True)
class GANWeights:
    """Weights of the terms; the defaults are the released ones."""

    mel: float = 45.0
    feature_match: float = 2.0
    tpr: float = 1.0
    tpr_tau: float = 0.04
    f0: float = 1.0


@dataclass(frozen=True)
class GeneratorLoss:
    """Terms of the generator's turn, unweighted scalars, and their weighted sum `total`."""

    total: Tensor
    adversarial: Tensor
    feature_match: Tensor
    mel: Tensor
    tpr: Tensor
    f0: Tensor


@dataclass(frozen=True)
class DiscriminatorLoss:
    """Terms of the discriminators' turn, unweighted scalars, and their weighted sum `total`."""

    total: Tensor
    adversarial: Tensor
    tpr: Tensor


def adversarial_generator_loss(fake: Sequence[Verdict]) -> Tensor:
    """Sum of mean((1 - D(fake))²): the generator wants to be taken for real (LSGAN)."""
    return _total((1.0 - verdict.score.float()).square().mean() for verdict in fake)


def adversarial_discriminator_loss(real: Sequence[Verdict], fake: Sequence[Verdict]) -> Tensor:
    """Sum of mean((1 - D(real))²) + mean(D(fake)²) (LSGAN)."""
    return _total(
        (1.0 - r.score.float()).square().mean() + f.score.float().square().mean()
        for r, f in zip(real, fake, strict=True)
    )


def feature_match_loss(real: Sequence[Verdict], fake: Sequence[Verdict]) -> Tensor:
    """Twice the sum of the mean absolute differences of the feature maps, over layers and discriminators."""
    return 2.0 * _total(
        F.l1_loss(a.float(), b.float())
        for r, f in zip(real, fake, strict=True)
        for a, b in zip(r.features, f.features, strict=True)
    )


def tpr_loss(first: Sequence[Verdict], second: Sequence[Verdict], tau: float) -> Tensor:
    """Truncated pointwise relative loss, at most `tau` a discriminator (StyleTTS 2, Li et al. 2023,
    appendix).

    Of the score differences first - second, those below their median are taken, and their mean squared
    distance from it is what counts. The generator passes (fake, real), the discriminators pass (real, fake).
    Where no difference lies below the median the loss is 0 instead of undefined.
    """
    terms = []
    for a, b in zip(first, second, strict=True):
        score_a, score_b = a.score.float(), b.score.float()
        median = (score_a - score_b).median()
        # Rounding decides whether the median itself counts, so the comparison is written as in the released
        # training.
        below = (score_a < score_b + median).float()
        relative = ((score_a - score_b - median).square() * below).sum() / below.sum().clamp(min=1.0)
        terms.append(tau - F.relu(tau - relative))
    return _total(terms)


def generator_loss(
    real: Sequence[Verdict],
    fake: Sequence[Verdict],
    real_mel: Tensor,
    fake_mel: Tensor,
    real_f0: Tensor,
    fake_f0: Tensor,
    weights: GANWeights,
) -> GeneratorLoss:
    """All terms of the generator's turn.

    Args:
        real: verdicts on recorded samples; they need no gradient.
        fake: verdicts on generated samples.
        real_mel: log-mel of the recorded samples, [batch, n_mels, frames].
        fake_mel: log-mel of the generated samples, same shape.
        real_f0: F0 of the recording in Hz, [batch, frames].
        fake_f0: predicted F0 in Hz, same shape.
        weights: of the terms.
    """
    adversarial = adversarial_generator_loss(fake)
    features = feature_match_loss(real, fake)
    mel = F.l1_loss(fake_mel, real_mel)
    tpr = tpr_loss(fake, real, weights.tpr_tau)
    f0 = F.l1_loss(fake_f0, real_f0)
    total = adversarial + weights.feature_match * features + weights.mel * mel + weights.tpr * tpr + weights.f0 * f0
    return GeneratorLoss(total, adversarial, features, mel, tpr, f0)


def discriminator_loss(real: Sequence[Verdict], fake: Sequence[Verdict], weights: GANWeights) -> DiscriminatorLoss:
    """All terms of the discriminators' turn; `fake` comes from samples detached from the generator."""
    adversarial = adversarial_discriminator_loss(real, fake)
    tpr = tpr_loss(real, fake, weights.tpr_tau)
    return DiscriminatorLoss(adversarial + weights.tpr * tpr, adversarial, tpr)


def _total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
