"""The CosyVoice 3 language model: its special tokens, and weights under the released names."""

from __future__ import annotations

import pytest
import torch

from cosyvoice.config.model import LLMConfig
from cosyvoice.errors import ConfigError
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM


def test_special_tokens_follow_the_speech_tokens(model: CosyVoice3LM) -> None:
    special = model.special
    assert (special.sos, special.eos, special.task, special.fill) == (20, 21, 22, 23)
    assert special.stop_ids == range(20, 26)


def test_names_and_shapes_of_the_weights(model: CosyVoice3LM) -> None:
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    assert shapes["llm_decoder.weight"] == shapes["speech_embedding.weight"] == (26, 32)
    assert "llm_decoder.bias" not in shapes
    assert shapes["llm.model.model.embed_tokens.weight"] == shapes["llm.model.lm_head.weight"] == (40, 32)
    layer = {
        name.removeprefix("llm.model.model.layers.0."): shape
        for name, shape in shapes.items()
        if name.startswith("llm.model.model.layers.0.")
    }
    assert layer == {
        "self_attn.q_proj.weight": (32, 32),
        "self_attn.q_proj.bias": (32,),
        "self_attn.k_proj.weight": (16, 32),
        "self_attn.k_proj.bias": (16,),
        "self_attn.v_proj.weight": (16, 32),
        "self_attn.v_proj.bias": (16,),
        "self_attn.o_proj.weight": (32, 32),
        "mlp.gate_proj.weight": (48, 32),
        "mlp.up_proj.weight": (48, 32),
        "mlp.down_proj.weight": (32, 48),
        "input_layernorm.weight": (32,),
        "post_attention_layernorm.weight": (32,),
    }


def test_special_rows_come_from_the_speech_table(model: CosyVoice3LM) -> None:
    ids = torch.tensor([20, 22])
    torch.testing.assert_close(model.embed_special(ids), model.speech_embedding.weight[ids])


def test_too_few_extra_rows_are_refused(llm_config: LLMConfig) -> None:
    with pytest.raises(ConfigError, match="4 rows"):
        CosyVoice3LM(llm_config.model_copy(update={"speech_extra_tokens": 3}))
