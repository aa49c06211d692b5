from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cosyvoice.config.model import DiTConfig, FlowConfig
from cosyvoice.flow.dit import AdaLayerNormFinal, Attention, DiT
from cosyvoice.flow.flow import CausalMaskedDiffWithDiT
from cosyvoice.flow.rotary import RotaryEmbedding
from cosyvoice.transformer.masks import padding_mask


def inputs(lengths: list[int], seed: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch, size = len(lengths), max(lengths)
    return {
        "x": torch.randn(batch, 8, size, generator=generator),
        "mask": padding_mask(torch.tensor(lengths)).unsqueeze(1).float(),
        "mu": torch.randn(batch, 6, size, generator=generator),
        "t": torch.rand(batch, generator=generator),
        "spks": torch.randn(batch, 5, generator=generator),
        "cond": torch.randn(batch, 8, size, generator=generator),
    }


def cut(batch: dict[str, Tensor], item: int, size: int) -> dict[str, Tensor]:
    one = {name: value[item : item + 1] for name, value in batch.items()}
    return {name: value[..., :size] if value.ndim == 3 else value for name, value in one.items()}


@torch.inference_mode()
def test_a_padded_item_gives_what_it_gives_alone(flow: CausalMaskedDiffWithDiT) -> None:
    estimator, batch = flow.decoder.estimator, inputs([33, 17])
    for streaming in (False, True):
        together = estimator(**batch, streaming=streaming)
        alone = estimator(**cut(batch, 1, 17), streaming=streaming)
        assert torch.allclose(together[1:, :, :17], alone, atol=1e-5)


@torch.inference_mode()
def test_streaming_leaves_finished_chunks_unchanged(flow: CausalMaskedDiffWithDiT) -> None:
    estimator, batch = flow.decoder.estimator, inputs([35])
    whole = estimator(**batch, streaming=True)
    for size in (10, 20, 30):
        assert torch.allclose(estimator(**cut(batch, 0, size), streaming=True), whole[:, :, :size], atol=1e-5)
    full = estimator(**batch, streaming=False)
    assert not torch.allclose(full[:, :, :10], whole[:, :, :10], atol=1e-3)


def test_a_fresh_estimator_predicts_no_velocity_and_learns() -> None:
    config = DiTConfig(dim=32, depth=1, heads=2, dim_head=8, mel_dim=8, mu_dim=6, spk_dim=5, out_channels=8)
    estimator, batch = DiT(config), inputs([12])
    velocity = estimator(**batch)
    assert torch.equal(velocity, torch.zeros_like(velocity))
    (velocity - batch["x"]).square().sum().backward()
    assert estimator.proj_out.weight.grad.abs().max() > 0


def test_attention_equals_the_plain_formula_with_one_rotated_head() -> None:
    heads, width, size = 3, 4, 9
    attention = Attention(10, heads, width)
    x = torch.randn(1, size, 10, generator=torch.Generator().manual_seed(4))
    valid = torch.arange(size).unsqueeze(0) < 7
    out = attention(x, valid[:, None, None], valid, RotaryEmbedding(width)(size))

    q, k, v = (layer(x)[0].view(size, heads, width) for layer in (attention.to_q, attention.to_k, attention.to_v))
    frequency = torch.tensor([1.0, 10000**-0.5])
    turn = torch.polar(torch.ones(size, 2), torch.arange(size)[:, None] * frequency)
    mixed = []
    for head in range(heads):
        qh, kh = q[:, head], k[:, head]
        if head == 0:
            qh, kh = (
                torch.view_as_real(torch.view_as_complex(a.reshape(size, 2, 2)) * turn).flatten(1) for a in (qh, kh)
            )
        scores = (qh @ kh.T / width**0.5).masked_fill(~valid, float("-inf"))
        mixed.append(scores.softmax(-1) @ v[:, head])
    expected = attention.to_out[0](torch.cat(mixed, dim=-1)) * valid[0, :, None]
    assert torch.allclose(out[0], expected, atol=1e-5)


def test_final_modulation_holds_scale_before_shift() -> None:
    norm = AdaLayerNormFinal(4)
    with torch.no_grad():
        norm.linear.bias.copy_(torch.tensor([2.0] * 4 + [5.0] * 4))
    x = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(1))
    expected = F.layer_norm(x, (4,), eps=1e-6) * 3 + 5
    assert torch.allclose(norm(x, torch.zeros(1, 4)), expected, atol=1e-5)


def test_names_of_parameters_are_the_released_ones() -> None:
    with torch.device("meta"):
        weights = CausalMaskedDiffWithDiT(FlowConfig()).state_dict()
    assert len(weights) == 330
    prefix = "decoder.estimator."
    shapes = {name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in weights.items()}
    assert shapes["input_embedding.weight"] == (6561, 80)
    assert shapes["spk_embed_affine_layer.weight"] == (80, 192)
    assert shapes["pre_lookahead_layer.conv1.weight"] == (1024, 80, 4)
    assert shapes["time_embed.time_mlp.0.weight"] == (1024, 256)
    assert shapes["input_embed.conv_pos_embed.conv2.0.weight"] == (1024, 64, 31)
    assert shapes["rotary_embed.inv_freq"] == (32,)
    assert shapes["transformer_blocks.21.attn_norm.linear.weight"] == (6144, 1024)
    assert shapes["transformer_blocks.0.attn.to_out.0.bias"] == (1024,)
    assert shapes["transformer_blocks.0.ff.ff.0.0.weight"] == (2048, 1024)
    assert shapes["transformer_blocks.0.ff.ff.2.weight"] == (1024, 2048)
    assert shapes["norm_out.linear.weight"] == (2048, 1024)
    assert shapes["proj_out.weight"] == (80, 1024)
