"""Speech language models on a Qwen2 decoder, which reads text rows as the text model does and speech rows beside them.

The second and third generation differ only in which table holds the rows of sos and task.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cosyvoice.config.model import LLMConfig
from cosyvoice.errors import ConfigError
from cosyvoice.llm.bistream import BistreamSession, Sampler
from cosyvoice.llm.dpo import DPOOutput, utterance_log_probs
from cosyvoice.llm.layout import Kind, Row, bistream, special_tokens, unistream
from cosyvoice.llm.packing import PackedBatch, pack
from cosyvoice.llm.qwen2 import Qwen2Encoder, initialize
from cosyvoice.llm.speech_lm import LMOutput, SpeechLM, unpad
from cosyvoice.transformer.kv_cache import KVCache


class QwenSpeechLM(SpeechLM):
    """Text tokens in, speech tokens out; with `end_of_prompt_id` None, no mark is required in the text."""

    config: LLMConfig

    def __init__(self, config: LLMConfig, head_bias: bool, end_of_prompt_id: int | None = None) -> None:
        super().__init__(config, end_of_prompt_id)
        width = config.qwen.hidden_size
        self.special = special_tokens(config)
        self.llm = Qwen2Encoder(config.qwen)
        self.llm_decoder = nn.Linear(width, self.num_outputs, bias=head_bias)
        self.speech_embedding = nn.Embedding(self.num_outputs, width)

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

    def embed_rows(self, rows: Sequence[Row], speaker_embedding: Tensor | None = None) -> Tensor:
        pairs = torch.tensor(rows, dtype=torch.long, device=self.llm_decoder.weight.device)
        return self.embed(pairs[:, 0], pairs[:, 1])[None]

    def decoder(self, embeddings: Tensor, cache: KVCache) -> Tensor:
        return self.llm(embeddings, cache)[0]

    def new_cache(self, batch: int = 1, capacity: int = 512) -> KVCache:
        weight, qwen = self.llm_decoder.weight, self.config.qwen
        head_dim = qwen.hidden_size // qwen.num_heads
        return KVCache(qwen.num_layers, qwen.num_kv_heads, head_dim, batch, capacity, weight.device, weight.dtype)

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
        texts, speeches = unpad(text_token, text_token_len), unpad(speech_token, speech_token_len)
        instructs: list[list[int]] = [[] for _ in texts]
        if instruct_token is not None:
            if instruct_token_len is None:
                raise ConfigError("instruct_token needs instruct_token_len")
            instructs = unpad(instruct_token, instruct_token_len)
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
        return self._scored(hidden, batch, attention)

    def forward_pairs(
        self,
        text_token: Tensor,
        text_token_len: Tensor,
        speech_token: Tensor,
        speech_token_len: Tensor,
        reject_speech_token: Tensor,
        reject_speech_token_len: Tensor,
        use_bistream: Sequence[bool] | None = None,
        compat: Literal["corrected", "released"] = "corrected",
    ) -> DPOOutput:
        """Log-probabilities of utterances of which one is better than the other, for `dpo_loss`.

        The arguments are those of `forward`, the chosen utterances and the rejected ones of the same texts;
        `use_bistream` has a flag for each of them, the chosen ones first. For `compat` see `utterance_log_probs`.
        """
        width = max(speech_token.shape[1], reject_speech_token.shape[1])
        speech = torch.cat([F.pad(t, (0, width - t.shape[1])) for t in (speech_token, reject_speech_token)])
        batch = self.layouts(
            text_token.repeat(2, 1),
            text_token_len.repeat(2),
            speech,
            torch.cat([speech_token_len, reject_speech_token_len]),
            use_bistream=use_bistream,
        )
        hidden, _ = self.llm(self.embed(batch.kinds, batch.ids), lengths=batch.lengths)
        count = len(text_token)
        chosen = PackedBatch(*(part[:count] for part in (batch.kinds, batch.ids, batch.targets, batch.lengths)))
        scored = self._scored(hidden[:count], chosen)
        log_probs = utterance_log_probs(self.llm_decoder(hidden), batch.targets, compat == "released")
        return DPOOutput(scored.loss, scored.accuracy, log_probs[:count], log_probs[count:])

    def bistream(
        self,
        sampler: Sampler,
        prompt_text: Sequence[int] = (),
        prompt_speech_token: Sequence[int] = (),
        max_tokens: int | None = None,
    ) -> BistreamSession:
        """A session that takes text piece by piece and speaks meanwhile; it owns its cache. See `open_stream`."""
        cache = self.new_cache()

        def feed(rows: Sequence[Row]) -> NDArray[np.float32]:
            return self.feed(rows, cache)

        return self.open_stream(feed, sampler, prompt_text, prompt_speech_token, max_tokens)
