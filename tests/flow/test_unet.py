from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cosyvoice.config.model import UNetConfig
from cosyvoice.errors import ConfigError
from cosyvoice.flow.causal_masked_diff import CausalMaskedDiffWithXvec
from cosyvoice.flow.masked_diff import MaskedDiffWithXvec
from cosyvoice.flow.unet import ConditionalDecoder, check_channels


def inputs(frames: int, batch: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "x": normal(batch, 8, frames),
        "mask": torch.ones(batch, 1, frames),
        "mu": normal(batch, 8, frames),
        "t": torch.rand(batch, generator=generator),
        "spks": normal(batch, 8),
        "cond": normal(batch, 8, frames),
    }


def cut(given: dict[str, Tensor], frames: int) -> dict[str, Tensor]:
    return {name: value[:, :, :frames] if value.dim() == 3 else value for name, value in given.items()}


@pytest.mark.parametrize("frames", [1, 2, 9, 12])
def test_any_number_of_frames_passes_both_levels(masked_diff: MaskedDiffWithXvec, frames: int) -> None:
    assert masked_diff.decoder.estimator(**inputs(frames)).shape == (1, 8, frames)


def test_every_input_matters(masked_diff: MaskedDiffWithXvec) -> None:
    given = inputs(11)
    velocity = masked_diff.decoder.estimator(**given)
    for name in ("x", "mu", "t", "spks", "cond"):
        other = masked_diff.decoder.estimator(**{**given, name: given[name] + 0.5})
        assert (other - velocity).abs().max() > 1e-3, name


def test_finished_chunks_do_not_change(causal_masked_diff: CausalMaskedDiffWithXvec) -> None:
    """Chunks of 10 frames; in the first generation, and without chunks, every frame sees all others."""
    estimator, given = causal_masked_diff.decoder.estimator, inputs(25)
    whole = estimator(**given, streaming=True)
    torch.testing.assert_close(estimator(**cut(given, 20), streaming=True), whole[:, :, :20])
    full = estimator(**given)
    assert not torch.allclose(estimator(**cut(given, 20)), full[:, :, :20], atol=1e-3)


def test_convolutions_of_a_causal_net_look_back_only(causal_masked_diff: CausalMaskedDiffWithXvec) -> None:
    block, x = causal_masked_diff.decoder.estimator.final_block, torch.randn(1, 16, 9)
    changed = x.clone()
    changed[:, :, 4] += 1
    mask = torch.ones(1, 1, 9)
    different = (block(x, mask) - block(changed, mask)).abs().amax(dim=(0, 1)) > 0
    assert different.tolist() == [False] * 4 + [True] * 3 + [False] * 2


def test_streaming_means_nothing_where_nothing_is_causal(masked_diff: MaskedDiffWithXvec) -> None:
    given = inputs(30)
    assert torch.equal(masked_diff.decoder.estimator(**given, streaming=True), masked_diff.decoder.estimator(**given))


def test_padding_of_a_causal_net_is_zero_and_has_no_influence(causal_masked_diff: CausalMaskedDiffWithXvec) -> None:
    estimator, given = causal_masked_diff.decoder.estimator, inputs(15, batch=2)
    given["mask"][1, :, 9:] = 0
    out = estimator(**given)
    assert not out[1, :, 9:].any()
    alone = estimator(**{name: value[1:] for name, value in cut(given, 9).items()})
    torch.testing.assert_close(out[1:, :, :9], alone, atol=1e-5, rtol=1e-5)


def test_geometries_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one level"):
        ConditionalDecoder(UNetConfig(channels=()))
    with pytest.raises(ConfigError, match="no multiple of 8"):
        ConditionalDecoder(UNetConfig(channels=(12,)))
    with pytest.raises(ConfigError, match="set them to 256 and 64"):
        check_channels(UNetConfig(), 64)
