"""Preference losses on numbers small enough to work out."""

from __future__ import annotations

import math

import pytest
import torch

from cosyvoice.llm.dpo import dpo_loss, utterance_log_probs
from cosyvoice.llm.layout import IGNORED
from cosyvoice.llm.qwen_speech_lm import QwenSpeechLM

CHOSEN, REJECTED = torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -1.0])
FROZEN_CHOSEN, FROZEN_REJECTED = torch.tensor([-1.5, -2.0]), torch.tensor([-2.5, -2.0])
MARGINS = (1.0, -1.0)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_rewards_a_margin_beyond_the_frozen_model(smoothing: float) -> None:
    result = dpo_loss(CHOSEN, REJECTED, FROZEN_CHOSEN, FROZEN_REJECTED, 0.5, smoothing)
    expected = [-(1 - smoothing) * log_sigmoid(0.5 * m) - smoothing * log_sigmoid(-0.5 * m) for m in MARGINS]
    assert float(result.loss) == pytest.approx(sum(expected) / 2, abs=1e-6)
    assert result.chosen_reward.tolist() == pytest.approx([0.25, 0.0])
    assert result.rejected_reward.tolist() == pytest.approx([-0.25, 0.5])


def test_ipo_is_the_squared_distance_to_its_margin() -> None:
    result = dpo_loss(CHOSEN, REJECTED, FROZEN_CHOSEN, FROZEN_REJECTED, 0.5, ipo=True)
    assert float(result.loss) == pytest.approx(sum((m - 1.0) ** 2 for m in MARGINS) / 2)


def test_log_probs_are_means_over_the_targets_that_count() -> None:
    logits = torch.log(torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]]))
    targets = torch.tensor([[IGNORED, 2, 1]])
    assert float(utterance_log_probs(logits, targets)) == pytest.approx((math.log(0.7) + math.log(0.3)) / 2)
    assert float(utterance_log_probs(logits, targets, released=True)) == pytest.approx(math.log(0.5))


def test_pairs_are_scored_as_each_utterance_alone(model: QwenSpeechLM) -> None:
    text, text_len = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2])
    chosen, chosen_len = torch.tensor([[7, 8, 9, 1], [5, 6, 0, 0]]), torch.tensor([4, 2])
    rejected, rejected_len = torch.tensor([[1, 1], [2, 0]]), torch.tensor([2, 1])
    with torch.inference_mode():
        pairs = model.forward_pairs(text, text_len, chosen, chosen_len, rejected, rejected_len)
        alone = model(text, text_len, chosen, chosen_len)
        lone = model(text[1:, :2], text_len[1:], rejected[1:, :1], rejected_len[1:])
    torch.testing.assert_close(pairs.loss, alone.loss)
    torch.testing.assert_close(pairs.accuracy, alone.accuracy)
    # The loss of a single utterance is the mean of what its targets cost.
    torch.testing.assert_close(pairs.rejected_log_probs[1], -lone.loss)
