"""Which inputs an output may depend on, and the formulas of the small layers."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.parametrizations import weight_norm

from cosyvoice.hifigan.layers import (
    CausalDownsample,
    CausalUpsample,
    ResBlock,
    SidedConv1d,
    Snake,
    remove_weight_norm,
)


def reach(layer: torch.nn.Module, length: int, output: int) -> list[int]:
    """Input positions that the output at `output` depends on."""
    channels = layer.in_channels if hasattr(layer, "in_channels") else 2
    x = torch.randn(1, channels, length, requires_grad=True)
    layer(x)[0, :, output].sum().backward()
    assert x.grad is not None
    return x.grad[0].abs().sum(0).nonzero().flatten().tolist()


@pytest.mark.parametrize(("side", "expected"), [("left", [4, 7, 10]), ("right", [10, 13, 16]), ("both", [7, 10, 13])])
def test_sided_convolution_sees_one_side(side: str, expected: list[int]) -> None:
    layer = SidedConv1d(2, 3, 3, dilation=3, side=side)
    assert layer(torch.randn(1, 2, 20)).shape == (1, 3, 20)
    assert reach(layer, 20, 10) == expected


def test_context_takes_the_place_of_padding() -> None:
    layer = SidedConv1d(2, 3, 5, side="right")
    x = torch.randn(1, 2, 12)
    torch.testing.assert_close(layer(x, pad=False), layer(x)[:, :, :-4])


def test_upsampling_never_sees_the_future() -> None:
    layer = CausalUpsample(2, 3, kernel_size=11, rate=5)
    assert layer(torch.randn(1, 2, 6)).shape == (1, 3, 30)
    # Output 14 is the last of input 2; 11 taps at a fifth of the rate reach three inputs.
    assert reach(layer, 6, 14) == [0, 1, 2]
    assert max(reach(layer, 6, 15)) == 3


@pytest.mark.parametrize(("rate", "kernel"), [(15, 30), (3, 6), (1, 1)])
def test_downsampling_never_sees_the_future(rate: int, kernel: int) -> None:
    layer = CausalDownsample(2, 3, rate)
    assert layer.kernel_size == (kernel,)
    # The STFT has one frame more than hops.
    assert layer(torch.randn(1, 2, 4 * rate + 1)).shape[2] == (4 if rate > 1 else 5)
    assert max(reach(layer, 4 * rate + 1, 2)) <= 2 * rate + rate


def test_snake_is_its_formula_and_keeps_the_type() -> None:
    snake = Snake(3)
    with torch.no_grad():
        snake.alpha.copy_(torch.tensor([0.5, 1.0, 2.0]))
    x = torch.randn(2, 3, 7)
    alpha = snake.alpha[:, None]
    torch.testing.assert_close(snake(x), x + torch.sin(alpha * x) ** 2 / alpha)
    assert snake(x.bfloat16()).dtype == torch.bfloat16


def test_residual_block_is_causal() -> None:
    block = ResBlock(2, 3, (1, 3, 5))
    assert max(reach(block, 40, 30)) == 30
    # Dilated convolutions reach 2 * (1 + 3 + 5) back, the plain ones 2 each.
    assert min(reach(block, 40, 30)) == 30 - 18 - 6


def test_weight_norm_can_be_folded() -> None:
    layer = torch.nn.Sequential(weight_norm(SidedConv1d(2, 3, 3)), torch.nn.ELU(), ResBlock(3, 3, (1,)))
    x = torch.randn(1, 2, 9)
    before = layer(x)
    remove_weight_norm(layer)
    assert not [name for name in layer.state_dict() if "parametrizations" in name]
    torch.testing.assert_close(layer(x), before)
