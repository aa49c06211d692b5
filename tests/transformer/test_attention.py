from __future__ import annotations

import math

import pytest
import torch

from cosyvoice.errors import ConfigError
from cosyvoice.transformer.attention import RelativePositionAttention, shift
from cosyvoice.transformer.positions import relative_positions, sinusoids


def test_shift_pairs_queries_with_keys() -> None:
    for queries, keys in ((1, 1), (1, 4), (3, 3), (2, 5)):
        distances = torch.arange(keys - 1, -queries, -1).expand(2, queries, -1)
        first = keys - queries
        expected = torch.arange(first, keys)[:, None] - torch.arange(keys)[None]
        assert (shift(distances.float(), keys) == expected).all()


def test_scores_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    attention = RelativePositionAttention(8, 2)
    x = torch.randn(1, 5, 8)
    with torch.no_grad():
        ours = attention(x, relative_positions(5, 8))
        q, k, v = (layer(x)[0].view(5, 2, 4) for layer in (attention.linear_q, attention.linear_k, attention.linear_v))
        rows = torch.zeros(5, 2, 4)
        for head in range(2):
            for i in range(5):
                scores = []
                for j in range(5):
                    p = attention.linear_pos(sinusoids(torch.tensor([i - j]), 8)).view(2, 4)[head]
                    content = (q[i, head] + attention.pos_bias_u[head]) @ k[j, head]
                    scores.append((content + (q[i, head] + attention.pos_bias_v[head]) @ p) / math.sqrt(4))
                rows[i, head] = torch.stack(scores).softmax(0) @ v[:, head]
        torch.testing.assert_close(ours[0], attention.linear_out(rows.flatten(1)), atol=1e-5, rtol=0)


def test_masked_keys_have_no_influence() -> None:
    torch.manual_seed(0)
    attention = RelativePositionAttention(8, 2)
    x = torch.randn(1, 4, 8)
    changed = x.clone()
    changed[:, 3] += 1
    mask = torch.tensor([[[True, True, True, False]]])
    before, after = (attention(rows, relative_positions(4, 8), mask) for rows in (x, changed))
    torch.testing.assert_close(before[:, :3], after[:, :3])


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 heads"):
        RelativePositionAttention(8, 3)
