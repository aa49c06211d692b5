from __future__ import annotations

import math

import torch

from cosyvoice.transformer.positions import relative_positions, sinusoids


def test_sine_and_cosine_take_turns() -> None:
    table = sinusoids(torch.tensor([3, -2]), 4)
    for row, position in zip(table, (3, -2), strict=True):
        slow = position / 100
        expected = torch.tensor([math.sin(position), math.cos(position), math.sin(slow), math.cos(slow)])
        torch.testing.assert_close(row, expected)


def test_distances_fall_from_the_farthest_past_to_the_farthest_future() -> None:
    torch.testing.assert_close(relative_positions(3, 6), sinusoids(torch.tensor([2, 1, 0, -1, -2]), 6))
