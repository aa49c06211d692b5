"""Label-smoothed loss and accuracy over the positions that have a target."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F


def label_smoothing_loss(logits: Tensor, targets: Tensor, smoothing: float, batch_size: int | None = None) -> Tensor:
    """Kullback-Leibler divergence of the prediction from the smoothed one-hot target.

    `logits` [positions, classes] and `targets` [positions] hold valid positions only. The target distribution
    is 1 - smoothing at the target and smoothing / (classes - 1) elsewhere. The sum is divided by the number
    of positions, or by `batch_size` where given.
    """
    divisor = max(targets.shape[0], 1) if batch_size is None else batch_size
    if smoothing == 0.0:
        return F.cross_entropy(logits.float(), targets, reduction="sum") / divisor
    log_probs = logits.float().log_softmax(dim=-1)
    at_target = log_probs.gather(1, targets[:, None]).squeeze(1)
    elsewhere = log_probs.sum(dim=-1) - at_target
    confidence, rest = 1.0 - smoothing, smoothing / (logits.shape[-1] - 1)
    # The negative entropy of the target makes a perfect prediction score zero.
    negative_entropy = confidence * math.log(confidence) + smoothing * math.log(rest)
    return (negative_entropy - confidence * at_target - rest * elsewhere).sum() / divisor


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Share of valid positions whose likeliest class is the target; zero where there is no position."""
    return (logits.argmax(dim=-1) == targets).float().sum() / max(targets.shape[0], 1)
