"""The speech language model of CosyVoice 3.

Its special tokens are rows of the speech embedding itself, behind the V speech tokens: sos V, eos V+1, task
V+2, fill V+3; the further rows were reserved. The output head has no bias. The speaker embedding is not used.
"""

from __future__ import annotations

from torch import Tensor

from cosyvoice.config.model import LLMConfig
from cosyvoice.llm.qwen_speech_lm import QwenSpeechLM


class CosyVoice3LM(QwenSpeechLM):
    """See `QwenSpeechLM`."""

    def __init__(self, config: LLMConfig, end_of_prompt_id: int | None = None) -> None:
        super().__init__(config, head_bias=False, end_of_prompt_id=end_of_prompt_id)

    def embed_special(self, ids: Tensor) -> Tensor:
        return self.speech_embedding(ids)
