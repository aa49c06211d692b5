"""The CosyVoice 2 language model: a table of its own for sos and task, a head with a bias."""

from __future__ import annotations

import pytest
import torch

from cosyvoice.config.model import LLMConfig
from cosyvoice.errors import ConfigError
from cosyvoice.llm.layout import Kind, Row
from cosyvoice.llm.qwen2_lm import Qwen2LM


@pytest.fixture
def config(llm_config: LLMConfig) -> LLMConfig:
    return llm_config.model_copy(update={"task_embedding": True, "speech_extra_tokens": 3})


def test_special_tokens(config: LLMConfig) -> None:
    special = Qwen2LM(config).special
    assert (special.sos, special.task, special.eos, special.fill) == (0, 1, 20, 22)
    assert special.stop_ids == range(20, 23)


def test_names_and_shapes_of_the_weights(config: LLMConfig) -> None:
    shapes = {name: tuple(weight.shape) for name, weight in Qwen2LM(config).state_dict().items()}
    outer = {name: shape for name, shape in shapes.items() if not name.startswith("llm.")}
    assert outer == {
        "llm_embedding.weight": (2, 32),
        "llm_decoder.weight": (23, 32),
        "llm_decoder.bias": (23,),
        "speech_embedding.weight": (23, 32),
    }


def test_special_rows_come_from_their_own_table(config: LLMConfig) -> None:
    model = Qwen2LM(config)
    rows = model.embed_rows([Row(Kind.SPECIAL, 0), Row(Kind.SPECIAL, 1), Row(Kind.SPEECH, 1)])[0]
    torch.testing.assert_close(rows[:2], model.llm_embedding.weight)
    torch.testing.assert_close(rows[2], model.speech_embedding.weight[1])


def test_only_eos_is_blocked_as_released_and_every_end_where_lengths_are_enforced(config: LLMConfig) -> None:
    assert Qwen2LM(config).blocked_before_min_length == [20]
    enforcing = config.model_copy(update={"enforce_min_len": True})
    assert Qwen2LM(enforcing).blocked_before_min_length == [20, 21, 22]


def test_too_few_outputs_are_refused(config: LLMConfig) -> None:
    with pytest.raises(ConfigError, match="3 rows"):
        Qwen2LM(config.model_copy(update={"speech_extra_tokens": 2}))
