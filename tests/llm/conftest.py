"""A language model small enough to run in milliseconds."""

from __future__ import annotations

import pytest
import torch

from cosyvoice.config.model import LLMConfig, Qwen2Config
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM


@pytest.fixture
def qwen_config() -> Qwen2Config:
    return Qwen2Config(
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=48,
        vocab_size=40,
        rope_theta=1e4,
    )


@pytest.fixture
def llm_config(qwen_config: Qwen2Config) -> LLMConfig:
    return LLMConfig(qwen=qwen_config, speech_token_size=20, speech_extra_tokens=6, mix_ratio=(2, 3))


@pytest.fixture
def model(llm_config: LLMConfig) -> CosyVoice3LM:
    model = CosyVoice3LM(llm_config)
    # Larger weights than training starts with, so that a fault shows in the outputs.
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, 0.0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return model.eval()
