from __future__ import annotations

import torch
from torch import nn

from cosyvoice.flow.length_regulator import InterpolateRegulator


def regulator(layers: int = 1) -> InterpolateRegulator:
    regulator = InterpolateRegulator(4, layers, edge_rows=5, edge_frames=8)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in regulator.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return regulator


def plain() -> InterpolateRegulator:
    """Without convolutions: what is interpolated is seen."""
    bare = regulator(0)
    bare.model = nn.Sequential()
    return bare


def ramp(rows: int) -> torch.Tensor:
    return torch.arange(float(rows)).view(1, -1, 1).expand(-1, -1, 4)


NOTHING = torch.zeros(1, 0, 4)


def test_rows_are_interpolated_between_their_centres() -> None:
    out = plain().inference(NOTHING, ramp(2), 0, 4)[0, :, 0]
    assert out.tolist() == [0.0, 0.25, 0.75, 1.0]


def test_edges_of_a_long_chunk_do_not_depend_on_its_length() -> None:
    """The overlap of two chunks comes out of the same rows in both."""
    long, longer = (plain().inference(NOTHING, ramp(rows), 0, frames) for rows, frames in ((20, 34), (31, 53)))
    assert torch.equal(long[:, :8], longer[:, :8])
    assert torch.allclose(long[:, -8:], longer[:, -8:] - 11)
    assert long.shape[1] == 34


def test_a_short_chunk_is_interpolated_at_once() -> None:
    out = plain().inference(NOTHING, ramp(10), 0, 20)[0, :, 0]
    assert torch.allclose(out.diff()[1:-1], torch.tensor(0.5))


def test_the_prompt_is_stretched_to_its_own_frames() -> None:
    out = plain().inference(ramp(3), ramp(4) + 10, 9, 6)[0, :, 0]
    assert len(out) == 15 and out[:9].max() == 2 and out[9:].min() == 10


def test_training_stretches_all_items_alike_and_clears_padding() -> None:
    valid = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    out = regulator(2)(torch.randn(2, 5, 4), valid)
    assert out.shape == (2, 7, 4) and out[1, 3].any() and not out[1, 4:].any()
