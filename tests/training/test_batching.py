import numpy as np
import pytest
import torch

from cosyvoice.training.batching import LengthBatches, pad


def test_pad_fills_to_a_multiple_of_the_longest():
    out = pad([np.ones((3, 2), np.float16), np.ones((5, 2), np.float16)], multiple=4, value=-1.0)
    assert out.shape == (2, 8, 2)
    assert out.dtype == torch.float32
    assert (out[0, :3] == 1).all() and (out[0, 3:] == -1).all()
    assert (out[1, :5] == 1).all() and (out[1, 5:] == -1).all()


def test_pad_keeps_integers():
    assert pad([np.arange(3), np.arange(2)]).tolist() == [[0, 1, 2], [0, 1, 0]]


@pytest.fixture
def lengths():
    return np.random.default_rng(0).integers(20, 200, 100).tolist()


def epoch_of(batches: LengthBatches, items: int, start: int) -> tuple[list[list[int]], int]:
    found: list[list[int]] = []
    while sum(map(len, found)) < items:
        found.append(batches.batch(start + len(found)))
    return found, start + len(found)


def test_every_epoch_holds_every_item_once_within_the_budget(lengths):
    batches = LengthBatches(lengths, budget=800, seed=3)
    first, step = epoch_of(batches, len(lengths), 0)
    second, _ = epoch_of(batches, len(lengths), step)
    for epoch in (first, second):
        assert sorted(item for batch in epoch for item in batch) == list(range(len(lengths)))
        assert all(len(batch) * max(lengths[i] for i in batch) <= 800 for batch in epoch)
    assert first != second


def test_batches_hold_items_of_like_length(lengths):
    epoch, _ = epoch_of(LengthBatches(lengths, budget=1500, seed=3), len(lengths), 0)
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in epoch)
    assert padded < 1.35 * sum(lengths)


def test_a_batch_depends_on_seed_and_step_alone(lengths):
    forward = LengthBatches(lengths, budget=800, seed=3)
    expected = [forward.batch(step) for step in range(60)]
    jumping = LengthBatches(lengths, budget=800, seed=3)
    for step in (59, 0, 31, 5, 40):
        assert jumping.batch(step) == expected[step]
    assert LengthBatches(lengths, budget=800, seed=4).batch(0) != expected[0]


def test_an_item_beyond_the_budget_is_a_batch_of_its_own():
    batches = LengthBatches([5, 50, 6], budget=20, seed=0)
    assert sorted(batches.batch(step) for step in range(2)) == [[0, 2], [1]]
