from __future__ import annotations

from cosyvoice.config.model import LLMConfig, TransformerLMConfig
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM
from cosyvoice.llm.kinds import speech_lm_class
from cosyvoice.llm.qwen2_lm import Qwen2LM
from cosyvoice.llm.transformer_lm import TransformerLM


def test_the_configuration_decides() -> None:
    assert speech_lm_class(TransformerLMConfig()) is TransformerLM
    assert speech_lm_class(LLMConfig(task_embedding=True)) is Qwen2LM
    assert speech_lm_class(LLMConfig()) is CosyVoice3LM
