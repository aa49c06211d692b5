"""The Qwen2 decoder: equal to Hugging Face's, with and without cache and attention capture."""

from __future__ import annotations

import pytest
import torch
import transformers

from cosyvoice.config.model import Qwen2Config
from cosyvoice.errors import ConfigError
from cosyvoice.llm.qwen2 import Qwen2Encoder, Qwen2Model, initialize, rotary_angles, rotate
from cosyvoice.transformer.kv_cache import KVCache


@pytest.fixture
def decoder(qwen_config: Qwen2Config) -> Qwen2Model:
    model = Qwen2Model(qwen_config)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3, generator=generator)
    return model.eval()


@pytest.fixture
def embeddings(qwen_config: Qwen2Config) -> torch.Tensor:
    return torch.randn(2, 9, qwen_config.hidden_size, generator=torch.Generator().manual_seed(2))


def test_equal_to_transformers(qwen_config: Qwen2Config, decoder: Qwen2Model, embeddings: torch.Tensor) -> None:
    theirs = transformers.Qwen2Model(
        transformers.Qwen2Config(
            hidden_size=qwen_config.hidden_size,
            num_hidden_layers=qwen_config.num_layers,
            num_attention_heads=qwen_config.num_heads,
            num_key_value_heads=qwen_config.num_kv_heads,
            intermediate_size=qwen_config.intermediate_size,
            vocab_size=qwen_config.vocab_size,
            rms_norm_eps=qwen_config.rms_norm_eps,
            rope_theta=qwen_config.rope_theta,
            attn_implementation="eager",
        )
    ).eval()
    # Their constructor is not told the type of the weights, and the names must fit one to one.
    theirs.float().load_state_dict(decoder.state_dict(), strict=True)
    with torch.inference_mode():
        ours, attention = decoder(embeddings, return_attention_of=[1])
        expected = theirs(inputs_embeds=embeddings, output_attentions=True)
    torch.testing.assert_close(ours, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attention[1], expected.attentions[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 3, 1], [8, 1], [9]])
def test_cached_pieces_equal_one_pass(
    qwen_config: Qwen2Config, decoder: Qwen2Model, embeddings: torch.Tensor, pieces: list[int]
) -> None:
    cache = KVCache(qwen_config.num_layers, qwen_config.num_kv_heads, 8, batch=2, capacity=3)
    with torch.inference_mode():
        whole, _ = decoder(embeddings)
        parts = [decoder(piece, cache)[0] for piece in embeddings.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)
    assert cache.length == 9


def test_padding_on_the_right_changes_nothing(decoder: Qwen2Model, embeddings: torch.Tensor) -> None:
    with torch.inference_mode():
        padded, _ = decoder(torch.cat([embeddings[:, :6], torch.full_like(embeddings, -1.0)], dim=1))
        plain, _ = decoder(embeddings[:, :6])
    torch.testing.assert_close(padded[:, :6], plain, atol=1e-5, rtol=1e-5)


def test_captured_attention_is_a_causal_distribution(decoder: Qwen2Model, embeddings: torch.Tensor) -> None:
    plain, none = decoder(embeddings)
    captured, attention = decoder(embeddings, return_attention_of=[0])
    assert none == {} and list(attention) == [0]
    torch.testing.assert_close(captured, plain, atol=1e-5, rtol=1e-5)
    assert attention[0].shape == (2, 4, 9, 9)
    torch.testing.assert_close(attention[0].sum(-1), torch.ones(2, 4, 9))
    assert attention[0].triu(1).abs().max() == 0.0


def test_attention_loss_reaches_the_projections(decoder: Qwen2Model, embeddings: torch.Tensor) -> None:
    _, attention = decoder(embeddings, return_attention_of=[1])
    attention[1][:, 0, -1, 3].sum().backward()
    for projection in (decoder.layers[1].self_attn.q_proj, decoder.layers[1].self_attn.k_proj):
        assert projection.weight.grad is not None and projection.weight.grad.abs().max() > 0


def test_rotary_scores_depend_on_distance_only() -> None:
    query, key = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(3))
    scores = []
    for offset in (0, 11):
        turned = [
            rotate(x, *rotary_angles(position + offset, 1, 8, 1e4, x.device)) for x, position in ((query, 5), (key, 2))
        ]
        scores.append((turned[0] * turned[1]).sum())
    torch.testing.assert_close(scores[0], scores[1])


def test_dropout_acts_in_training_only(qwen_config: Qwen2Config, embeddings: torch.Tensor) -> None:
    model = Qwen2Model(qwen_config.model_copy(update={"dropout": 0.5}))
    initialize(model, qwen_config.num_layers, torch.Generator().manual_seed(0))
    assert not torch.equal(model(embeddings)[0], model(embeddings)[0])
    model.eval()
    torch.testing.assert_close(model(embeddings)[0], model(embeddings)[0])


def test_bfloat16_autocast_stays_close(decoder: Qwen2Model, embeddings: torch.Tensor) -> None:
    plain, _ = decoder(embeddings)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, attention = decoder(embeddings, return_attention_of=[1])
    assert attention[1].dtype == torch.float32
    assert (mixed - plain).abs().mean() < 0.05 * plain.abs().mean()


def test_head_is_tied_and_initialisation_follows_the_generator(qwen_config: Qwen2Config) -> None:
    first, second = Qwen2Encoder(qwen_config), Qwen2Encoder(qwen_config)
    for model in (first, second):
        initialize(model, qwen_config.num_layers, torch.Generator().manual_seed(4))
    state = first.state_dict()
    assert "model.model.layers.1.self_attn.q_proj.bias" in state
    assert state["model.lm_head.weight"].data_ptr() == first.embed_tokens.weight.data_ptr()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    down, up = (
        getattr(first.model.model.layers[0].mlp, name).weight.detach().std() for name in ("down_proj", "up_proj")
    )
    assert down / up == pytest.approx(0.5, rel=0.1)  # 1 / sqrt(2 * 2 layers)


def test_attention_of_a_layer_that_does_not_exist_is_refused(decoder: Qwen2Model, embeddings: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="no layer 2"):
        decoder(embeddings, return_attention_of=[2])


@pytest.mark.parametrize("change", [{"num_heads": 5}, {"num_kv_heads": 3}, {"hidden_size": 36}])
def test_impossible_geometry_is_refused(qwen_config: Qwen2Config, change: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Qwen2Model(qwen_config.model_copy(update=change))
