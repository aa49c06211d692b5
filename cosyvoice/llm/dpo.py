"""Direct preference optimisation (Rafailov et al. 2023): the model learns which of two utterances of a text is better.

No reward model is needed: the reward of an utterance is how much likelier the model finds it than a frozen copy of
itself from before.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from cosyvoice.llm.layout import IGNORED


@dataclass(frozen=True)
class DPOLoss:
    """Loss of a batch, and the rewards [batch] of its chosen and rejected utterances."""

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor


@dataclass(frozen=True)
class DPOOutput:
    """What a forward over pairs returns: loss and accuracy of the chosen utterances, and log-probabilities [batch]."""

    loss: Tensor
    accuracy: Tensor
    chosen_log_probs: Tensor
    rejected_log_probs: Tensor


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    frozen_chosen: Tensor,
    frozen_rejected: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
    ipo: bool = False,
) -> DPOLoss:
    """The loss from log-probabilities [batch] of both utterances under the model in training and the frozen one.

    Args:
        beta: how closely the model is held to the frozen one.
        label_smoothing: share of pairs that are taken to be labelled the wrong way round (conservative DPO).
        ipo: the squared loss of identity preference optimisation (Azar et al. 2023, equation 17) instead, which label
            smoothing does not concern.
    """
    margin = (policy_chosen - policy_rejected) - (frozen_chosen - frozen_rejected)
    if ipo:
        losses = (margin - 1 / (2 * beta)) ** 2
    else:
        right, wrong = F.logsigmoid(beta * margin), F.logsigmoid(-beta * margin)
        losses = -(1 - label_smoothing) * right - label_smoothing * wrong
    return DPOLoss(
        losses.mean(),
        (beta * (policy_chosen - frozen_chosen)).detach(),
        (beta * (policy_rejected - frozen_rejected)).detach(),
    )


def utterance_log_probs(logits: Tensor, targets: Tensor, released: bool = False) -> Tensor:
    """Mean log-probability [batch] of the targets that count, from `logits` [batch, time, outputs].

    `released` gives what the released implementation computes: the mean over the positions that do *not* count, padding
    included, of the output 0.
    """
    counted = (targets == IGNORED) if released else (targets != IGNORED)
    chosen = targets.masked_fill(targets == IGNORED, 0)
    log_probs = logits.float().log_softmax(-1).gather(2, chosen[..., None]).squeeze(-1)
    return (log_probs * counted).sum(-1) / counted.sum(-1)
