"""A language model that continues text tokens with speech tokens: what every generation shares.

Incremental decoding, the generation loop and the loss live here. A generation says which special tokens it has, how
rows become input, and which decoder reads them. Sampling is not decided here: the caller passes a sampler, which owns
the source of randomness.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cosyvoice.config.model import LLMConfig, TransformerLMConfig
from cosyvoice.llm.bistream import Sampler
from cosyvoice.llm.layout import IGNORED, Row, SpecialTokens, length_limits, speech_rows
from cosyvoice.llm.loss import accuracy, label_smoothing_loss
from cosyvoice.llm.packing import PackedBatch
from cosyvoice.llm.prompt import PromptRules
from cosyvoice.transformer.kv_cache import KVCache


@dataclass(frozen=True)
class LMOutput:
    """What a training forward returns."""

    loss: Tensor
    accuracy: Tensor
    hidden: Tensor
    """Hidden states [batch, time, channels] before the output head."""
    batch: PackedBatch
    """The sequences as laid out: which columns are text and which are speech."""
    attention: dict[int, Tensor] = field(default_factory=dict)
    """Attention probabilities [batch, heads, time, time] of the layers asked for."""


class SpeechLM(PromptRules, nn.Module):
    """Base of the speech language models; subclasses set `special` and make the decoder."""

    special: SpecialTokens
    speech_embedding: nn.Embedding
    llm_decoder: nn.Linear

    def __init__(self, config: LLMConfig | TransformerLMConfig, end_of_prompt_id: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.end_of_prompt_id = end_of_prompt_id
        self.num_outputs = config.speech_token_size + config.speech_extra_tokens

    def embed_rows(self, rows: Sequence[Row], speaker_embedding: Tensor | None = None) -> Tensor:
        """One sequence of rows as input [1, time, channels]; the speaker embedding [dim] is for the speaker's row."""
        raise NotImplementedError

    def decoder(self, embeddings: Tensor, cache: KVCache) -> Tensor:
        """Hidden states [batch, time, channels] of rows that continue what `cache` holds, and are added to it."""
        raise NotImplementedError

    def new_cache(self, batch: int = 1, capacity: int = 512) -> KVCache:
        """An empty cache on the model's device and in its precision."""
        raise NotImplementedError

    @torch.inference_mode()
    def step(self, embeddings: Tensor, cache: KVCache) -> Tensor:
        """Feed rows [batch, time, channels]; return log-probabilities [batch, outputs] after the last row.

        The model must be in evaluation mode, or dropout falsifies the result.
        """
        hidden = self.decoder(embeddings, cache)
        return self.llm_decoder(hidden[:, -1]).float().log_softmax(dim=-1)

    @torch.inference_mode()
    def feed(
        self, rows: Sequence[Row], cache: KVCache, speaker_embedding: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Feed one sequence of rows; return the log-probabilities [outputs] after the last one."""
        speaker = None
        if speaker_embedding is not None:
            weight = self.llm_decoder.weight
            speaker = torch.from_numpy(np.array(speaker_embedding)).to(weight.device, weight.dtype)
        return self.step(self.embed_rows(rows, speaker), cache)[0].cpu().numpy()

    def length_limits(self, text_length: int) -> tuple[int, int]:
        """Fewest and most speech tokens for a text of `text_length` tokens, prompt excluded."""
        return length_limits(text_length, self.config.min_token_text_ratio, self.config.max_token_text_ratio)

    @property
    def blocked_before_min_length(self) -> list[int]:
        """Output ids that may not be chosen before the minimum length.

        The released implementation blocks index V alone. In V1 and V2 that is eos; in V3 it is sos, so its minimum
        has no effect. `enforce_min_len` blocks every id that would stop.
        """
        return list(self.special.stop_ids) if self.config.enforce_min_len else [self.config.speech_token_size]

    def generate(
        self,
        text: Sequence[int],
        sampler: Sampler,
        prompt_text: Sequence[int] = (),
        prompt_speech_token: Sequence[int] = (),
        speaker_embedding: NDArray[np.float32] | None = None,
    ) -> Iterator[int]:
        """Yield speech tokens until a stop id or the maximum length; the stop id itself is not yielded.

        Every call has a cache of its own, so interleaved or abandoned generators do not touch each other. A model
        that reads no speaker embedding ignores it.
        """
        rows = self.prompt_rows(text, prompt_text, prompt_speech_token, speaker_embedding)
        speaker = self.used_speaker(speaker_embedding)
        minimum, maximum = self.length_limits(len(text))
        return self._continue(rows, speaker, sampler, minimum, maximum)

    def _continue(
        self,
        rows: list[Row],
        speaker: NDArray[np.float32] | None,
        sampler: Sampler,
        minimum: int,
        maximum: int,
    ) -> Iterator[int]:
        cache = self.new_cache(capacity=len(rows) + 256)
        history: list[int] = []
        blocked = self.blocked_before_min_length
        while len(history) < maximum:
            scores = self.feed(rows, cache, speaker)
            if len(history) < minimum:
                scores[blocked] = -np.inf
            token = sampler(scores, history)
            if token in self.special.stop_ids:
                return
            history.append(token)
            yield token
            rows = speech_rows([token])

    def _scored(self, hidden: Tensor, batch: PackedBatch, attention: dict[int, Tensor] | None = None) -> LMOutput:
        """Loss and accuracy of hidden states [batch, time, channels]."""
        valid = batch.targets != IGNORED
        # The head is as wide as the vocabulary: only rows with a target pass through it.
        logits, targets = self.llm_decoder(hidden[valid]), batch.targets[valid]
        batch_size = None if self.config.length_normalized_loss else len(batch.targets)
        loss = label_smoothing_loss(logits, targets, self.config.label_smoothing, batch_size)
        return LMOutput(loss, accuracy(logits.detach(), targets), hidden, batch, attention or {})


def unpad(tokens: Tensor, lengths: Tensor) -> list[list[int]]:
    """The sequences of a padded batch."""
    return [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
