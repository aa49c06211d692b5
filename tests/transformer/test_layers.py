from __future__ import annotations

import torch
from torch.nn import functional as F

from cosyvoice.config.model import EncoderConfig
from cosyvoice.transformer.layers import ConformerLayer, InputEmbedding, TransformerLayer, make_layers
from cosyvoice.transformer.positions import relative_positions

CONFIG = EncoderConfig(input_size=6, output_size=8, attention_heads=2, linear_units=12, num_blocks=3)


@torch.inference_mode()
def test_both_kinds_are_pre_norm_and_differ_in_activation() -> None:
    x, positions = torch.randn(1, 5, 8), relative_positions(5, 8)
    for kind, names, activation in (
        (ConformerLayer, ("norm_mha", "norm_ff"), F.silu),
        (TransformerLayer, ("norm1", "norm2"), F.relu),
    ):
        layer = kind(CONFIG).eval()
        first, second = (getattr(layer, name) for name in names)
        h = x + layer.self_attn(first(x), positions)
        expected = h + layer.feed_forward.w_2(activation(layer.feed_forward.w_1(second(h))))
        torch.testing.assert_close(layer(x, positions), expected)


def test_the_configuration_chooses_kind_and_number() -> None:
    assert [type(layer) for layer in make_layers(CONFIG)] == [ConformerLayer] * 3
    other = CONFIG.model_copy(update={"layer": "transformer"})
    assert [type(layer) for layer in make_layers(other, 2)] == [TransformerLayer] * 2


@torch.inference_mode()
def test_the_embedding_is_scaled_by_the_root_of_its_width() -> None:
    embedding, x = InputEmbedding(CONFIG).eval(), torch.randn(1, 5, 6)
    normed = F.layer_norm(embedding.out[0](x), (8,), embedding.out[1].weight, embedding.out[1].bias)
    torch.testing.assert_close(embedding(x), normed * 8**0.5)
    assert InputEmbedding(CONFIG, 3).out[0].in_features == 3
