from __future__ import annotations

import torch

from cosyvoice.flow.batch import FlowBatch, TrainingDraws


def batch(utterances: int) -> FlowBatch:
    lengths = torch.full((utterances,), 20)
    token = torch.zeros(utterances, 20, dtype=torch.long)
    return FlowBatch(token, lengths, torch.zeros(utterances, 40, 8), 2 * lengths, torch.zeros(utterances, 12))


def test_prefixes_show_up_to_30_percent_of_half_of_the_utterances() -> None:
    many = batch(400)
    draws = [TrainingDraws.sample(many, torch.Generator().manual_seed(seed)) for seed in range(8)]
    prefix = torch.stack([draw.prefix for draw in draws])
    assert prefix.min() == 0 and prefix.max() == 12
    assert 0.42 < (prefix > 0).float().mean() < 0.51
    assert {draw.streaming for draw in draws} == {True, False}


def test_a_batch_moves_as_a_whole() -> None:
    moved = batch(2).to("meta")
    assert {part.device.type for part in vars(moved).values()} == {"meta"}
