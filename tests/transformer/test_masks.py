from __future__ import annotations

import torch

from cosyvoice.transformer.masks import attention_mask, causal_mask, chunk_mask, padding_mask


def test_padding_mask_marks_real_positions() -> None:
    mask = padding_mask(torch.tensor([3, 1, 0]))
    assert mask.tolist() == [[True, True, True], [True, False, False], [False, False, False]]
    assert padding_mask(torch.tensor([1]), 3).tolist() == [[True, False, False]]


def test_chunk_mask_shows_own_chunk_and_all_to_the_left() -> None:
    assert chunk_mask(5, 2).int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_full_attention_mask_broadcasts_over_queries() -> None:
    mask = attention_mask(padding_mask(torch.tensor([2, 3])))
    assert mask.tolist() == [[[True, True, False]], [[True, True, True]]]


def test_chunked_attention_mask_hides_padding_and_future() -> None:
    mask = attention_mask(padding_mask(torch.tensor([3]), 4), chunk=2)
    assert mask[0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]


def test_a_query_without_any_key_sees_all() -> None:
    valid = torch.tensor([[False, False, True, True]])
    assert attention_mask(valid, chunk=2)[0].int().tolist() == [[1, 1, 1, 1]] * 2 + [[0, 0, 1, 1]] * 2
    assert attention_mask(torch.zeros(1, 3, dtype=torch.bool)).all()


def test_causal_mask_aligns_the_last_query_with_the_last_key() -> None:
    assert causal_mask(2, 4).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
