"""The CosyVoice 1 language model: encoded text, the speaker's row, training and generation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cosyvoice.config.model import EncoderConfig, TransformerLMConfig
from cosyvoice.errors import ConfigError, TextError, VoiceError
from cosyvoice.llm.layout import IGNORED, Kind, Row
from cosyvoice.llm.transformer_lm import TransformerLM

SPEAKER = np.linspace(-1, 1, 6, dtype=np.float32)


@pytest.fixture
def config() -> TransformerLMConfig:
    small = {"attention_heads": 2, "linear_units": 24, "num_blocks": 2, "static_chunk_size": 1}
    return TransformerLMConfig(
        text_token_size=30,
        speech_token_size=20,
        speaker_embedding_dim=6,
        text_encoder=EncoderConfig(input_size=4, output_size=12, **small),
        llm=EncoderConfig(layer="transformer", input_layer="linear_legacy", input_size=16, output_size=16, **small),
    )


@pytest.fixture
def model(config: TransformerLMConfig) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(config).eval()


def greedy(scores: np.ndarray, history: object) -> int:
    return int(scores.argmax())


@torch.inference_mode()
def test_where_every_row_comes_from(model: TransformerLM) -> None:
    rows = [Row(Kind.SPECIAL, 0), Row(Kind.SPEAKER, 0), Row(Kind.TEXT, 3), Row(Kind.TEXT, 9), Row(Kind.SPECIAL, 1)]
    embedded = model.embed_rows([*rows, Row(Kind.SPEECH, 7)], torch.from_numpy(SPEAKER))[0]
    torch.testing.assert_close(embedded[[0, 4]], model.llm_embedding.weight)
    unit = torch.from_numpy(SPEAKER / np.linalg.norm(SPEAKER))
    torch.testing.assert_close(embedded[1], model.spk_embed_affine_layer(unit))
    encoded = model.text_encoder_affine_layer(model.encode_text(torch.tensor([[3, 9]])))[0]
    torch.testing.assert_close(embedded[2:4], encoded)
    torch.testing.assert_close(embedded[5], model.speech_embedding.weight[7])


@torch.inference_mode()
def test_the_norm_of_the_speaker_does_not_matter(model: TransformerLM) -> None:
    rows = [Row(Kind.SPEAKER, 0)]
    one, other = (model.embed_rows(rows, torch.from_numpy(SPEAKER * factor)) for factor in (1, 7))
    torch.testing.assert_close(one, other)


def test_without_a_speaker_there_is_no_row_for_one(model: TransformerLM) -> None:
    kinds = [row.kind for row in model.prompt_rows([1, 2], [3], [4])]
    assert kinds == [Kind.SPECIAL, Kind.TEXT, Kind.TEXT, Kind.TEXT, Kind.SPECIAL, Kind.SPEECH]
    kinds = [row.kind for row in model.prompt_rows([1, 2], [3], [4], SPEAKER)]
    assert kinds[:3] == [Kind.SPECIAL, Kind.SPEAKER, Kind.TEXT]


@torch.inference_mode()
def test_a_batch_is_trained_as_its_items_alone(model: TransformerLM) -> None:
    text, text_len = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), torch.tensor([4, 2])
    speech, speech_len = torch.tensor([[7, 8, 9], [5, 0, 0]]), torch.tensor([3, 1])
    speaker = torch.randn(2, 6)
    whole = model(text, text_len, speech, speech_len, speaker)
    alone = model(text[1:, :2], text_len[1:], speech[1:, :1], speech_len[1:], speaker[1:])
    torch.testing.assert_close(whole.hidden[1:, : alone.hidden.shape[1]], alone.hidden, atol=1e-5, rtol=0)
    assert whole.batch.targets[0].tolist() == [IGNORED] * 6 + [7, 8, 9, 20]
    assert whole.batch.targets[1].tolist() == [IGNORED] * 4 + [5, 20] + [IGNORED] * 4


def test_training_lowers_the_loss(config: TransformerLMConfig) -> None:
    torch.manual_seed(0)
    model = TransformerLM(config)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    batch = (torch.tensor([[1, 2]]), torch.tensor([2]), torch.tensor([[3, 4, 5]]), torch.tensor([3]), torch.ones(1, 6))
    losses = []
    for _ in range(30):
        loss = model(*batch).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_steps_equal_one_pass(model: TransformerLM) -> None:
    rows = model.prompt_rows([1, 2, 3], [4], [5, 6, 7], SPEAKER)
    cache = model.new_cache(capacity=2)
    model.feed(rows[:-2], cache, SPEAKER)
    model.feed(rows[-2:-1], cache)
    stepped = model.feed(rows[-1:], cache)
    np.testing.assert_allclose(stepped, model.feed(rows, model.new_cache(), SPEAKER), atol=1e-5)


def test_eos_ends_an_utterance_and_is_blocked_before_the_minimum(model: TransformerLM) -> None:
    allowed = []

    def end_it(scores: np.ndarray, history: list[int]) -> int:
        allowed.append(bool(np.isfinite(scores[20])))
        return 20 if allowed[-1] else 3

    assert list(model.generate([1, 2], end_it, speaker_embedding=SPEAKER)) == [3] * 4
    assert allowed == [False] * 4 + [True]
    assert len(list(model.generate([1, 2], lambda scores, history: 3))) == 40


def test_bad_input(model: TransformerLM, config: TransformerLMConfig) -> None:
    with pytest.raises(TextError, match="30 tokens"):
        model.prompt_rows([30])
    with pytest.raises(VoiceError, match="6 numbers"):
        model.prompt_rows([1], speaker_embedding=SPEAKER[:5])
    with pytest.raises(ConfigError, match="row for a speaker"):
        model.feed([Row(Kind.SPEAKER, 0)], model.new_cache())
    with pytest.raises(ConfigError, match="whole text at once"):
        model.open_stream(lambda rows: np.zeros(21, np.float32), greedy)
    full = config.llm.model_copy(update={"static_chunk_size": 0})
    with pytest.raises(ConfigError, match="causal"):
        TransformerLM(config.model_copy(update={"llm": full}))
