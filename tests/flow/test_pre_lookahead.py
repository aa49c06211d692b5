from __future__ import annotations

import torch

from cosyvoice.flow.pre_lookahead import PreLookahead


def rows(count: int) -> torch.Tensor:
    return torch.randn(2, count, 6, generator=torch.Generator().manual_seed(3))


def test_context_continues_the_input() -> None:
    layer, x = PreLookahead(6, 9, lookahead=3), rows(12)
    whole = layer(x)
    head = layer(x[:, :9], context=x[:, 9:])
    assert head.shape == (2, 9, 6)
    assert torch.allclose(head, whole[:, :9], atol=1e-6)
    assert not torch.allclose(layer(x[:, :9]), head, atol=1e-3)


def test_a_row_reaches_three_rows_back_and_two_ahead() -> None:
    layer, x = PreLookahead(6, 9, lookahead=3), rows(14)
    changed = x.clone()
    changed[:, 6] += 1
    different = ((layer(x) - layer(changed)).abs().amax(dim=(0, 2)) > 0).nonzero().flatten()
    assert different.min() == 3 and different.max() == 8
