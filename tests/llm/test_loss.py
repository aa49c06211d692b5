"""The smoothed loss against its definition."""

from __future__ import annotations

import pytest
import torch

from cosyvoice.llm.loss import accuracy, label_smoothing_loss

LOGITS = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 3, 6, 3, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_equal_to_the_divergence(smoothing: float, batch_size: int | None) -> None:
    wanted = torch.full((5, 7), smoothing / 6)
    wanted[torch.arange(5), TARGETS] = 1 - smoothing
    divergence = torch.nn.functional.kl_div(LOGITS.log_softmax(-1), wanted, reduction="sum")
    loss = label_smoothing_loss(LOGITS, TARGETS, smoothing, batch_size)
    torch.testing.assert_close(loss, divergence / (batch_size or 5))


def test_perfect_smoothed_prediction_costs_nothing() -> None:
    wanted = torch.full((1, 7), 0.2 / 6)
    wanted[0, 4] = 0.8
    loss = label_smoothing_loss(wanted.log(), torch.tensor([4]), 0.2)
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-6, rtol=0)


def test_accuracy() -> None:
    logits = torch.eye(3)
    assert accuracy(logits, torch.tensor([0, 1, 0])) == pytest.approx(2 / 3)
    assert accuracy(logits[:0], torch.tensor([], dtype=torch.long)) == 0.0
