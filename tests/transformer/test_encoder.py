"""Encoders against themselves: padding, chunks and caches change what is computed at once, never the result."""

from __future__ import annotations

import pytest
import torch

from cosyvoice.config.model import EncoderConfig
from cosyvoice.transformer.encoder import Encoder

CONFORMER = EncoderConfig(input_size=6, output_size=8, attention_heads=2, linear_units=12, num_blocks=2)
TRANSFORMER = CONFORMER.model_copy(update={"layer": "transformer", "input_layer": "linear_legacy"})


@pytest.fixture(params=[CONFORMER, TRANSFORMER], ids=["conformer", "transformer"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    return Encoder(request.param).eval()


@torch.inference_mode()
def test_padding_changes_nothing(encoder: Encoder) -> None:
    x = torch.randn(2, 7, 6)
    whole = encoder(x, torch.tensor([7, 4]))
    torch.testing.assert_close(whole[1:, :4], encoder(x[1:, :4]), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole[:1], encoder(x[:1]), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [1, 3])
def test_finished_chunks_do_not_change(encoder: Encoder, chunk: int) -> None:
    x = torch.randn(1, 9, 6)
    torch.testing.assert_close(encoder(x, chunk=chunk)[:, :6], encoder(x[:, :6], chunk=chunk), atol=1e-5, rtol=0)
    assert not torch.allclose(encoder(x, chunk=0)[:, :6], encoder(x[:, :6], chunk=0), atol=1e-3)


@torch.inference_mode()
def test_the_cache_continues_a_causal_sequence(encoder: Encoder) -> None:
    x = torch.randn(1, 9, 6)
    cache = encoder.new_cache(capacity=2)
    pieces = [encoder(piece, cache=cache) for piece in x.split([4, 1, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), encoder(x, chunk=1), atol=1e-5, rtol=0)
    assert cache.length == 9


@torch.inference_mode()
def test_the_chunk_of_the_configuration_is_the_default() -> None:
    torch.manual_seed(0)
    encoder = Encoder(CONFORMER.model_copy(update={"static_chunk_size": 2})).eval()
    x = torch.randn(1, 6, 6)
    torch.testing.assert_close(encoder(x), encoder(x, chunk=2))


@torch.inference_mode()
def test_only_the_legacy_embedding_cuts_negative_values() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, 6)
    assert Encoder(CONFORMER).eval().embed(x).min() < 0
    assert Encoder(TRANSFORMER).eval().embed(x).min() == 0


def test_names_are_those_of_released_checkpoints() -> None:
    layer = [f"self_attn.linear_{part}.{end}" for part in ("q", "k", "v", "out") for end in ("weight", "bias")]
    layer += ["self_attn.linear_pos.weight", "self_attn.pos_bias_u", "self_attn.pos_bias_v"]
    layer += [f"feed_forward.w_{index}.{end}" for index in (1, 2) for end in ("weight", "bias")]
    outer = [f"{part}.{end}" for part in ("embed.out.0", "embed.out.1", "after_norm") for end in ("weight", "bias")]
    for config, norms in ((CONFORMER, ("norm_ff", "norm_mha")), (TRANSFORMER, ("norm1", "norm2"))):
        own = [*layer, *(f"{norm}.{end}" for norm in norms for end in ("weight", "bias"))]
        expected = {*outer, *(f"encoders.{i}.{name}" for i in range(config.num_blocks) for name in own)}
        assert set(Encoder(config).state_dict()) == expected


def test_gradients_reach_every_weight(encoder: Encoder) -> None:
    encoder.train()
    encoder(torch.randn(2, 5, 6), torch.tensor([5, 3]), chunk=1).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
