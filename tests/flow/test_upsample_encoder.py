from __future__ import annotations

import torch

from cosyvoice.flow.causal_masked_diff import CausalMaskedDiffWithXvec
from cosyvoice.flow.upsample_encoder import Upsample


def rows(count: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, count, 12, generator=torch.Generator().manual_seed(2))


def test_every_row_becomes_two_frames(causal_masked_diff: CausalMaskedDiffWithXvec) -> None:
    assert causal_masked_diff.encoder(rows(7)).shape == (1, 14, 16)


def test_frames_are_smoothed_with_those_before_them() -> None:
    layer, x = Upsample(3, 2), torch.randn(1, 3, 6)
    changed = x.clone()
    changed[:, :, 2] += 1
    different = (layer(x) - layer(changed)).abs().amax(dim=(0, 1)) > 0
    assert different.nonzero().flatten().tolist() == [4, 5, 6, 7, 8, 9]


def test_finished_chunks_do_not_change(causal_masked_diff: CausalMaskedDiffWithXvec) -> None:
    """Chunks of 5 tokens, 3 to look ahead at."""
    encoder, x = causal_masked_diff.encoder, rows(20)
    whole = encoder(x, streaming=True)
    part = encoder(x[:, :10], context=x[:, 10:13], streaming=True)
    torch.testing.assert_close(part, whole[:, :20], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(encoder(x[:, :10], streaming=True), whole[:, :20], atol=1e-3)
    assert not torch.allclose(encoder(x)[:, :20], whole[:, :20], atol=1e-3)


def test_padding_reaches_no_further_than_the_look_ahead(causal_masked_diff: CausalMaskedDiffWithXvec) -> None:
    """Padded rows are read by the look-ahead, as in the released implementation, but attended to by none."""
    encoder, x = causal_masked_diff.encoder, rows(12, batch=2)
    padded = x.clone()
    padded[1, 8 + 3 :] += 1
    lengths = torch.tensor([12, 8])
    out, other = encoder(x, lengths=lengths), encoder(padded, lengths=lengths)
    assert torch.equal(out[0], other[0]) and torch.equal(out[1, :16], other[1, :16])
