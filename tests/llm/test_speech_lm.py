"""Training forward and generation of the speech language model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cosyvoice.config.model import LLMConfig
from cosyvoice.errors import ConfigError, TextError, VoiceError
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM
from cosyvoice.llm.layout import Kind, Row, speech_rows

TEXT = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
TEXT_LEN = torch.tensor([4, 2])
SPEECH = torch.tensor([[7, 8, 9, 1, 2, 3, 4], [5, 6, 7, 8, 0, 0, 0]])
SPEECH_LEN = torch.tensor([7, 4])
BATCH = (TEXT, TEXT_LEN, SPEECH, SPEECH_LEN)


def greedy(scores: NDArray[np.float32], history: Sequence[int]) -> int:
    return int(scores.argmax())


class Planned:
    """A sampler that follows a plan and keeps what it was shown."""

    def __init__(self, plan: Sequence[int]) -> None:
        self.plan = iter(plan)
        self.scores: list[NDArray[np.float32]] = []
        self.histories: list[list[int]] = []

    def __call__(self, scores: NDArray[np.float32], history: Sequence[int]) -> int:
        self.scores.append(scores.copy())
        self.histories.append(list(history))
        return next(self.plan)


def with_config(model: CosyVoice3LM, **changes: object) -> CosyVoice3LM:
    other = CosyVoice3LM(model.config.model_copy(update=changes), model.end_of_prompt_id)
    other.load_state_dict(model.state_dict())
    return other.eval()


def test_loss_is_the_mean_over_items_of_their_targets(model: CosyVoice3LM) -> None:
    whole = model(*BATCH)
    parts = [
        model(TEXT[i : i + 1, :t], TEXT_LEN[i : i + 1], SPEECH[i : i + 1, :s], SPEECH_LEN[i : i + 1])
        for i, (t, s) in enumerate(((4, 7), (2, 4)))
    ]
    weights = [8, 5]  # speech tokens and eos of each item
    for name in ("loss", "accuracy"):
        mean = sum(w * getattr(part, name) for w, part in zip(weights, parts, strict=True)) / sum(weights)
        torch.testing.assert_close(getattr(whole, name), mean, atol=1e-5, rtol=1e-5)


def test_loss_divided_by_the_batch_size(model: CosyVoice3LM) -> None:
    other = with_config(model, length_normalized_loss=False)
    torch.testing.assert_close(other(*BATCH).loss, model(*BATCH).loss * 13 / 2, atol=1e-4, rtol=1e-5)


def test_bistream_flags_choose_the_layout(model: CosyVoice3LM) -> None:
    batch = model(*BATCH, use_bistream=[True, False]).batch
    assert (batch.targets[0] == model.special.fill).sum() == 2
    assert (batch.targets[1] == model.special.fill).sum() == 0


def test_instruct_precedes_the_text(model: CosyVoice3LM) -> None:
    batch = model.layouts(*BATCH, torch.tensor([[30, 31], [32, 0]]), torch.tensor([2, 1]))
    assert batch.ids[0, 1:7].tolist() == [30, 31, 1, 2, 3, 4]
    assert batch.ids[1, 1:4].tolist() == [32, 5, 6]
    with pytest.raises(ConfigError, match="instruct_token_len"):
        model.layouts(*BATCH, torch.tensor([[30], [31]]))


def test_training_lowers_the_loss(llm_config: LLMConfig) -> None:
    model = CosyVoice3LM(llm_config)
    model.initialize(torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        output = model(*BATCH, return_attention_of=[1])
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.loss.detach()))
    assert losses[0] == pytest.approx(np.log(26), abs=0.1)  # fresh weights predict nothing
    assert losses[-1] < 0.5
    tokens = list(model.eval().generate([1, 2, 3, 4], greedy))
    assert tokens == SPEECH[0].tolist()


def test_embedding_reads_each_table(model: CosyVoice3LM) -> None:
    kinds = torch.tensor([[Kind.TEXT, Kind.SPEECH, Kind.SPECIAL, Kind.PAD]])
    rows = model.embed(kinds, torch.tensor([[39, 3, 22, 0]]))[0]
    torch.testing.assert_close(rows[0], model.llm.embed_tokens.weight[39])
    torch.testing.assert_close(rows[1], model.speech_embedding.weight[3])
    torch.testing.assert_close(rows[2], model.speech_embedding.weight[22])
    assert rows[3].eq(-1.0).all()


def test_decoding_predicts_what_training_predicts(model: CosyVoice3LM) -> None:
    output = model(TEXT[:1], TEXT_LEN[:1], SPEECH[:1], SPEECH_LEN[:1])
    logits = model.llm_decoder(output.hidden[0, 5:])
    expected = logits.log_softmax(-1).detach().numpy()
    sampler = Planned([*SPEECH[0].tolist(), model.special.eos])
    assert list(model.generate([1, 2, 3, 4], sampler)) == SPEECH[0].tolist()
    shown = np.stack(sampler.scores)
    open_ = np.isfinite(shown)
    np.testing.assert_allclose(shown[open_], expected[open_], atol=1e-4)
    assert sampler.histories[2] == [7, 8]


def test_prompt_rows(model: CosyVoice3LM) -> None:
    rows = model.prompt_rows([3], prompt_text=[1, 2], prompt_speech_token=[9])
    assert rows == [
        Row(Kind.SPECIAL, 20),
        *(Row(Kind.TEXT, i) for i in (1, 2, 3)),
        Row(Kind.SPECIAL, 22),
        Row(Kind.SPEECH, 9),
    ]


@pytest.mark.parametrize("stop", range(20, 26))
def test_every_id_behind_the_codebook_stops(model: CosyVoice3LM, stop: int) -> None:
    assert list(model.generate([1], Planned([4, stop]))) == [4]


def test_maximum_length(model: CosyVoice3LM) -> None:
    other = with_config(model, max_token_text_ratio=1.5)
    sampler = Planned([1] * 10)
    assert list(other.generate([1, 2, 3], sampler, prompt_text=[4, 5])) == [1] * 4
    assert len(sampler.scores) == 4


def test_released_minimum_blocks_index_v_only(model: CosyVoice3LM) -> None:
    sampler = Planned([1, 1, 1, 21])
    list(model.generate([1], sampler))
    blocked = [np.flatnonzero(np.isneginf(scores)).tolist() for scores in sampler.scores]
    assert blocked == [[20], [20], [], []]


def test_enforced_minimum_blocks_every_stop_id(model: CosyVoice3LM) -> None:
    sampler = Planned([1, 1, 21])
    list(with_config(model, enforce_min_len=True).generate([1], sampler))
    blocked = [np.flatnonzero(np.isneginf(scores)).tolist() for scores in sampler.scores]
    assert blocked == [list(range(20, 26)), list(range(20, 26)), []]


def test_interleaved_generators_do_not_touch_each_other(model: CosyVoice3LM) -> None:
    alone = [list(model.generate(text, greedy)) for text in ([1, 2], [3])]
    first, second = model.generate([1, 2], greedy), model.generate([3], greedy)
    mixed: tuple[list[int], list[int]] = ([], [])
    for _ in range(50):
        for iterator, tokens in ((first, mixed[0]), (second, mixed[1])):
            tokens += [t for t in [next(iterator, None)] if t is not None]
    assert list(mixed) == alone


def test_refused_input(model: CosyVoice3LM) -> None:
    with pytest.raises(TextError, match="no tokens"):
        model.generate([], greedy)
    with pytest.raises(TextError, match="40 tokens"):
        model.generate([40], greedy)
    with pytest.raises(VoiceError, match=r"outside of 0\.\.19"):
        model.generate([1], greedy, prompt_speech_token=[20])
    with pytest.raises(TextError, match="40 tokens"):
        list(model.bistream(greedy).push([40, 41]))


def test_end_of_prompt_is_required_only_where_configured(model: CosyVoice3LM) -> None:
    model.end_of_prompt_id = 30
    with pytest.raises(TextError, match="endofprompt"):
        model.generate([1], greedy)
    with pytest.raises(TextError, match="endofprompt"):
        model.bistream(greedy, prompt_text=[1])
    assert next(model.generate([1, 30], Planned([4]))) == 4


def test_bistream_reads_the_prompt_up_to_the_mark_first(model: CosyVoice3LM) -> None:
    model.end_of_prompt_id = 30
    session = model.bistream(Planned([1, 2, 3, 4, 21]), prompt_text=[5, 30, 6])
    tokens = [*session.push([7]), *session.finish()]
    assert tokens == [1, 2, 3, 4]


def test_streamed_scores_equal_one_pass(model: CosyVoice3LM) -> None:
    sampler = Planned([1, 2, 3, 4, 21])
    session = with_config(model, released_stream_end=False).bistream(sampler)
    assert [*session.push([1, 2]), *session.push([3]), *session.finish()] == [1, 2, 3, 4]
    rows = model.layouts(
        torch.tensor([[1, 2, 3]]), torch.tensor([3]), torch.tensor([[1, 2, 3, 4]]), torch.tensor([4]),
        use_bistream=[True],
    )  # fmt: skip
    with torch.inference_mode():
        hidden, _ = model.llm(model.embed(rows.kinds, rows.ids))
        expected = model.llm_decoder(hidden[0, -1]).log_softmax(-1).numpy()
    np.testing.assert_allclose(sampler.scores[-1], expected, atol=1e-4)


def test_batched_steps(model: CosyVoice3LM) -> None:
    rows = torch.cat([model.embed_rows(speech_rows(ids)) for ids in ([1, 2, 3], [4, 5, 6])])
    cache = model.new_cache(batch=2, capacity=1)
    model.step(rows[:, :2], cache)
    both = model.step(rows[:, 2:], cache)
    for i in range(2):
        alone = model.step(rows[i : i + 1], model.new_cache())
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-5, rtol=1e-5)
