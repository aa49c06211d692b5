"""Which class runs which configuration of a speech language model."""

from __future__ import annotations

from cosyvoice.config.model import LLMConfig, TransformerLMConfig
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM
from cosyvoice.llm.qwen2_lm import Qwen2LM
from cosyvoice.llm.transformer_lm import TransformerLM

AnySpeechLM = TransformerLM | Qwen2LM | CosyVoice3LM


def speech_lm_class(config: LLMConfig | TransformerLMConfig) -> type[AnySpeechLM]:
    """The class; it is made with the configuration and the id of the end-of-prompt mark."""
    if config.kind == "transformer":
        return TransformerLM
    return Qwen2LM if config.task_embedding else CosyVoice3LM
