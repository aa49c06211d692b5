"""A language model that continues text tokens with speech tokens, on a Qwen2 decoder.

Everything that the second and third generation share lives here: training forward, incremental decoding and
the generation loop. A generation only says which special tokens it has and which table holds their rows.
Sampling is not decided here: the caller passes a sampler, which owns the source of randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cosyvoice.config.model import LLMConfig
from cosyvoice.errors import ConfigError
from cosyvoice.llm.bistream import BistreamSession, Sampler
from cosyvoice.llm.kv_cache import KVCache
from cosyvoice.llm.layout import (
    IGNORED,
    Kind,
    Row,
    bistream,
    length_limits,
    speech_rows,
    unistream,
)
from cosyvoice.llm.loss import accuracy, label_smoothing_loss
from cosyvoice.llm.packing import PackedBatch, pack
from cosyvoice.llm.prompt import PromptRules
from cosyvoice.llm.qwen2 import Qwen2Encoder, initialize


@dataclass(frozen=True)
class LMOutput:
    """What a training forward returns."""

    loss: Tensor
    accuracy: Tensor
    hidden: Tensor
    """Hidden states [batch, time, channels] before the output head."""
    attention: dict[int, Tensor]
    """Attention probabilities [batch, heads, time, time] of the layers asked for."""
    batch: PackedBatch
    """The sequences as laid out: which columns are text and which are speech."""


class SpeechLM(PromptRules, nn.Module):
    """Base of the Qwen2-based speech language models; subclasses set `special` and `embed_special`."""

    def __init__(self, config: LLMConfig, num_outputs: int, head_bias: bool, end_of_prompt_id: int | None) -> None:
        super().__init__()
        self.config = config
        self.num_outputs = num_outputs
        self.end_of_prompt_id = end_of_prompt_id
        width = config.qwen.hidden_size
        self.llm = Qwen2Encoder(config.qwen)
        self.llm_decoder = nn.Linear(width, num_outputs, bias=head_bias)
        self.speech_embedding = nn.Embedding(num_outputs, width)

    def embed_special(self, ids: Tensor) -> Tensor:
        """Rows [..., channels] of the table that holds sos and task."""
        raise NotImplementedError

    def initialize(self, generator: torch.Generator) -> None:
        """Draw fresh weights for training from scratch."""
        initialize(self, self.config.qwen.num_layers, generator)

    def embed(self, kinds: Tensor, ids: Tensor) -> Tensor:
        """Input rows [..., channels] for `kinds` and `ids` [...]; padding rows hold -1."""

        def lookup(kind: Kind, table: Callable[[Tensor], Tensor]) -> Tensor:
            return table(ids.where(kinds == kind, 0))

        speech = lookup(Kind.SPEECH, self.speech_embedding)
        rows = torch.where((kinds == Kind.TEXT)[..., None], lookup(Kind.TEXT, self.llm.embed_tokens), speech)
        rows = torch.where((kinds == Kind.SPECIAL)[..., None], lookup(Kind.SPECIAL, self.embed_special), rows)
        return rows.masked_fill((kinds == Kind.PAD)[..., None], -1.0)

    def embed_rows(self, rows: Sequence[Row]) -> Tensor:
        """One sequence of rows as input [1, time, channels]."""
        pairs = torch.tensor(rows, dtype=torch.long, device=self.llm_decoder.weight.device)
        return self.embed(pairs[:, 0], pairs[:, 1])[None]

    def layouts(
        self,
        text_token: Tensor,
        text_token_len: Tensor,
        speech_token: Tensor,
        speech_token_len: Tensor,
        instruct_token: Tensor | None = None,
        instruct_token_len: Tensor | None = None,
        use_bistream: Sequence[bool] | None = None,
    ) -> PackedBatch:
        """Arrange a padded batch; the arguments are those of `forward`."""
        texts, speeches = _unpad(text_token, text_token_len), _unpad(speech_token, speech_token_len)
        instructs: list[list[int]] = [[] for _ in texts]
        if instruct_token is not None:
            if instruct_token_len is None:
                raise ConfigError("instruct_token needs instruct_token_len")
            instructs = _unpad(instruct_token, instruct_token_len)
        flags = [False] * len(texts) if use_bistream is None else use_bistream
        arranged = [
            bistream(text, speech, self.special, self.config.mix_ratio, instruct)
            if streamed
            else unistream(text, speech, self.special, instruct)
            for text, speech, instruct, streamed in zip(texts, speeches, instructs, flags, strict=True)
        ]
        return pack(arranged, self.llm_decoder.weight.device)

    def forward(
        self,
        text_token: Tensor,
        text_token_len: Tensor,
        speech_token: Tensor,
        speech_token_len: Tensor,
        instruct_token: Tensor | None = None,
        instruct_token_len: Tensor | None = None,
        use_bistream: Sequence[bool] | None = None,
        return_attention_of: Collection[int] = (),
    ) -> LMOutput:
        """Loss and accuracy of a padded batch.

        `text_token` [batch, text time] with lengths [batch], `speech_token` [batch, speech time] with lengths
        [batch]; the optional instruct tokens precede the text and are the same in form. `use_bistream` says
        for each item whether it is laid out for text streaming (see `choose_bistream`); none is by default.
        """
        batch = self.layouts(
            text_token,
            text_token_len,
            speech_token,
            speech_token_len,
            instruct_token,
            instruct_token_len,
            use_bistream,
        )
        hidden, attention = self.llm(self.embed(batch.kinds, batch.ids), return_attention_of=return_attention_of)
        valid = batch.targets != IGNORED
        # The head is as wide as the vocabulary: only rows with a target pass through it.
        logits, targets = self.llm_decoder(hidden[valid]), batch.targets[valid]
        batch_size = None if self.config.length_normalized_loss else len(batch.targets)
        loss = label_smoothing_loss(logits, targets, self.config.label_smoothing, batch_size)
        return LMOutput(loss, accuracy(logits.detach(), targets), hidden, attention, batch)

    def new_cache(self, batch: int = 1, capacity: int = 512) -> KVCache:
        """An empty cache on the model's device and in its precision."""
        weight = self.llm_decoder.weight
        return KVCache(self.config.qwen, batch, capacity, weight.device, weight.dtype)

    @torch.inference_mode()
    def step(self, embeddings: Tensor, cache: KVCache) -> Tensor:
        """Feed rows [batch, time, channels]; return log-probabilities [batch, outputs] after the last row.

        The model must be in evaluation mode, or dropout falsifies the result.
        """
        hidden, _ = self.llm(embeddings, cache)
        return self.llm_decoder(hidden[:, -1]).float().log_softmax(dim=-1)

    @torch.inference_mode()
    def feed(self, rows: Sequence[Row], cache: KVCache) -> NDArray[np.float32]:
        """Feed one sequence of rows; return the log-probabilities [outputs] after the last one."""
        return self.step(self.embed_rows(rows), cache)[0].cpu().numpy()

    def length_limits(self, text_length: int) -> tuple[int, int]:
        """Fewest and most speech tokens for a text of `text_length` tokens, prompt excluded."""
        return length_limits(text_length, self.config.min_token_text_ratio, self.config.max_token_text_ratio)

    @property
    def blocked_before_min_length(self) -> list[int]:
        """Output ids that may not be chosen before the minimum length.

        The released implementation blocks index V alone. In V2 that is eos; in V3 it is sos, so its minimum
        has no effect. `enforce_min_len` blocks every id that would stop.
        """
        return list(self.special.stop_ids) if self.config.enforce_min_len else [self.config.speech_token_size]

    def generate(
        self,
        text: Sequence[int],
        sampler: Sampler,
        prompt_text: Sequence[int] = (),
        prompt_speech_token: Sequence[int] = (),
    ) -> Iterator[int]:
        """Yield speech tokens until a stop id or the maximum length; the stop id itself is not yielded.

        Every call has a cache of its own, so interleaved or abandoned generators do not touch each other.
        """
        rows = self.prompt_rows(text, prompt_text, prompt_speech_token)
        minimum, maximum = self.length_limits(len(text))
        return self._continue(rows, sampler, minimum, maximum)

    def bistream(
        self,
        sampler: Sampler,
        prompt_text: Sequence[int] = (),
        prompt_speech_token: Sequence[int] = (),
        max_tokens: int | None = None,
    ) -> BistreamSession:
        """A session that takes text piece by piece and speaks meanwhile; it owns its cache.

        The end-of-prompt mark, where the model needs one, must stand in the prompt text: what precedes it is
        read before anything else. `max_tokens` bounds the utterance; the released implementation has no
        bound. Raises `TextError` and `VoiceError` as `prompt_rows` does.
        """
        self.check_text(prompt_text)
        self.check_end_of_prompt(prompt_text)
        self.check_speech(prompt_speech_token)
        head, rest = self.bistream_head(prompt_text)
        cache = self.new_cache()

        def feed(rows: Sequence[Row]) -> NDArray[np.float32]:
            self.check_text([row.id for row in rows if row.kind == Kind.TEXT])
            return self.feed(rows, cache)

        return BistreamSession(feed, sampler, self.special, self.config, head, rest, prompt_speech_token, max_tokens)

    def _continue(self, rows: list[Row], sampler: Sampler, minimum: int, maximum: int) -> Iterator[int]:
        cache = self.new_cache(capacity=len(rows) + 256)
        history: list[int] = []
        blocked = self.blocked_before_min_length
        while len(history) < maximum:
            scores = self.feed(rows, cache)
            if len(history) < minimum:
                scores[blocked] = -np.inf
            token = sampler(scores, history)
            if token in self.special.stop_ids:
                return
            history.append(token)
            yield token
            rows = speech_rows([token])


def _unpad(tokens: Tensor, lengths: Tensor) -> list[list[int]]:
    return [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
