"""The speech language model of CosyVoice 2.

sos and task have a table of their own, rows 0 and 1. The outputs are the V speech tokens, eos V, one without a use, and
fill V+2; the head has a bias. The speaker embedding is not used.
"""

from __future__ import annotations

from torch import Tensor, nn

from cosyvoice.config.model import LLMConfig
from cosyvoice.llm.qwen_speech_lm import QwenSpeechLM


class Qwen2LM(QwenSpeechLM):
    """See `QwenSpeechLM`; the configuration has a `task_embedding`."""

    def __init__(self, config: LLMConfig, end_of_prompt_id: int | None = None) -> None:
        super().__init__(config, head_bias=True, end_of_prompt_id=end_of_prompt_id)
        self.llm_embedding = nn.Embedding(2, config.qwen.hidden_size)

    def embed_special(self, ids: Tensor) -> Tensor:
        return self.llm_embedding(ids)
