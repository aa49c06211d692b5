from __future__ import annotations

import torch

from cosyvoice.flow.rotary import RotaryEmbedding, rotate_first_channels


def test_only_the_covered_channels_are_rotated() -> None:
    x = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1))
    y = rotate_first_channels(x, *RotaryEmbedding(4)(7))
    assert torch.equal(y[..., 4:], x[..., 4:])
    assert not torch.allclose(y[:, 1:, :4], x[:, 1:, :4])
    assert torch.allclose(y[:, 0], x[:, 0]), "position 0 is not turned"
    assert torch.allclose(y.norm(dim=-1), x.norm(dim=-1))


def test_pairs_are_neighbouring_channels() -> None:
    x = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]).expand(1, 3, 4)
    y = rotate_first_channels(x, *RotaryEmbedding(4)(3))
    angle = torch.tensor([0.0, 1.0, 2.0])
    assert torch.allclose(y[0], torch.stack([angle.cos(), angle.sin(), 0 * angle, 0 * angle], dim=-1))


def test_products_depend_on_the_distance_only() -> None:
    generator = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 8, generator=generator)
    table = RotaryEmbedding(8)(20)
    q, k = (rotate_first_channels(v.expand(1, 20, 8), *table)[0] for v in (q, k))
    products = q @ k.T
    assert torch.allclose(products.diagonal(3), products[0, 3].expand(17), atol=1e-4)


def test_low_precision_is_kept() -> None:
    x = torch.ones(1, 3, 6, dtype=torch.bfloat16)
    assert rotate_first_channels(x, *RotaryEmbedding(4)(3)).dtype == torch.bfloat16
