from __future__ import annotations

import itertools

import pytest
import torch

from cosyvoice.speech_tokenizer.fsq import FSQ


@pytest.mark.parametrize(("channels", "levels"), [(3, 3), (2, 5), (6, 3)])
def test_every_id_comes_from_exactly_one_code(channels: int, levels: int) -> None:
    fsq = FSQ(channels, levels)
    digits = torch.tensor(list(itertools.product(range(levels), repeat=channels)), dtype=torch.float32)
    # atanh of the levels, the outer ones drawn in a little: rounding must take them back to the level.
    codes = (2 * digits / (levels - 1) - 1).clamp(-0.9, 0.9)
    ids = fsq.indices(torch.atanh(codes)[None])[0]
    assert sorted(ids.tolist()) == list(range(levels**channels)) == list(range(fsq.codebook_size))


def test_ids_and_quantised_values_name_the_same_code() -> None:
    fsq = FSQ(4, 3)
    x = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(1)) * 2
    ids, codes = fsq.indices(x), fsq(x)
    digits = torch.stack([ids // 3**k % 3 for k in range(4)], dim=-1)
    torch.testing.assert_close(codes, digits.float() - 1, atol=1e-6, rtol=0)
    torch.testing.assert_close(codes, fsq.codes(ids), atol=1e-6, rtol=0)


def test_first_channel_counts_least() -> None:
    fsq = FSQ(3, 3)
    assert fsq.indices(torch.tensor([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, -9.0]]])).tolist() == [
        [13 + 1, 13 + 3, 13 - 9]
    ]


def test_gradient_passes_the_rounding() -> None:
    x = torch.tensor([[[0.2, -0.4, 0.0]]], requires_grad=True)
    FSQ(3, 3)(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 1 - torch.tanh(x.detach()) ** 2)


def test_powers_are_not_saved() -> None:
    assert FSQ(3).state_dict() == {}
