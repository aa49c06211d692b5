"""The speech language model of CosyVoice 1: a text encoder, a speaker embedding, and a Transformer decoder.

Text is not read by lookup alone: a causal Conformer encodes it first, prompt and text as one. The speaker has a row of
its own behind sos, which instructions do without. sos and task are rows 0 and 1 of a table; output V is eos, and no row
of the speech embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosyvoice.config.model import TransformerLMConfig
from cosyvoice.errors import ConfigError
from cosyvoice.llm.layout import Kind, Row, special_tokens, unistream
from cosyvoice.llm.packing import PackedBatch, pack
from cosyvoice.llm.speech_lm import LMOutput, SpeechLM, unpad
from cosyvoice.transformer.encoder import Encoder
from cosyvoice.transformer.kv_cache import KVCache


class TransformerLM(SpeechLM):
    """Text tokens and a speaker embedding in, speech tokens out."""

    config: TransformerLMConfig

    def __init__(self, config: TransformerLMConfig, end_of_prompt_id: int | None = None) -> None:
        if config.llm.static_chunk_size != 1:
            raise ConfigError("a language model is causal: static_chunk_size of its decoder must be 1")
        super().__init__(config, end_of_prompt_id)
        width = config.llm.input_size
        self.special = special_tokens(config)
        self.text_embedding = nn.Embedding(config.text_token_size, config.text_encoder.input_size)
        self.text_encoder = Encoder(config.text_encoder)
        self.text_encoder_affine_layer = nn.Linear(config.text_encoder.output_size, width)
        self.llm_embedding = nn.Embedding(2, width)
        self.llm = Encoder(config.llm)
        self.llm_decoder = nn.Linear(config.llm.output_size, self.num_outputs)
        self.speech_embedding = nn.Embedding(config.speech_token_size, width)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_embedding_dim, width)

    def encode_text(self, text_token: Tensor, text_token_len: Tensor | None = None) -> Tensor:
        """Text tokens [batch, time] to [batch, time, channels], before the layer that fits them to the decoder."""
        return self.text_encoder(self.text_embedding(text_token), text_token_len)

    def embed(self, kinds: Tensor, ids: Tensor, speaker_embedding: Tensor | None = None) -> Tensor:
        """Input rows [batch, time, channels] for `kinds` and `ids` [batch, time]; padding rows hold -1.

        `speaker_embedding` [batch, speaker_embedding_dim], of any norm, is for sequences with a speaker's row.
        """
        text = kinds == Kind.TEXT
        rows = self.llm_embedding(ids.where(kinds == Kind.SPECIAL, 0))
        speech = self.speech_embedding(ids.where(kinds == Kind.SPEECH, 0))
        rows = torch.where((kinds == Kind.SPEECH)[..., None], speech, rows)
        if text.any():
            # The rows of a text are neighbours, so those of a batch are found again in the order they are taken.
            lengths = text.sum(dim=1)
            tokens = nn.utils.rnn.pad_sequence(list(ids[text].split(lengths.tolist())), batch_first=True)
            encoded = self.text_encoder_affine_layer(self.encode_text(tokens, lengths))
            real = torch.arange(tokens.shape[1], device=ids.device) < lengths[:, None]
            rows = rows.masked_scatter(text[..., None], encoded[real].to(rows.dtype))
        speaker = kinds == Kind.SPEAKER
        if speaker.any():
            if speaker_embedding is None:
                raise ConfigError("the sequence has a row for a speaker; give the speaker embedding as well")
            projected = self.spk_embed_affine_layer(F.normalize(speaker_embedding, dim=1))
            rows = torch.where(speaker[..., None], projected[:, None], rows)
        return rows.masked_fill((kinds == Kind.PAD)[..., None], -1.0)

    def embed_rows(self, rows: Sequence[Row], speaker_embedding: Tensor | None = None) -> Tensor:
        pairs = torch.tensor(rows, dtype=torch.long, device=self.llm_decoder.weight.device)[None]
        return self.embed(pairs[..., 0], pairs[..., 1], None if speaker_embedding is None else speaker_embedding[None])

    def decoder(self, embeddings: Tensor, cache: KVCache) -> Tensor:
        return self.llm(embeddings, cache=cache)

    def new_cache(self, batch: int = 1, capacity: int = 512) -> KVCache:
        return self.llm.new_cache(batch, capacity)

    def layouts(
        self, text_token: Tensor, text_token_len: Tensor, speech_token: Tensor, speech_token_len: Tensor
    ) -> PackedBatch:
        """Arrange a padded batch; the arguments are those of `forward`."""
        texts, speeches = unpad(text_token, text_token_len), unpad(speech_token, speech_token_len)
        arranged = [
            unistream(text, speech, self.special, speaker=True) for text, speech in zip(texts, speeches, strict=True)
        ]
        return pack(arranged, self.llm_decoder.weight.device)

    def forward(
        self,
        text_token: Tensor,
        text_token_len: Tensor,
        speech_token: Tensor,
        speech_token_len: Tensor,
        embedding: Tensor,
    ) -> LMOutput:
        """Loss and accuracy of a padded batch.

        `text_token` [batch, text time] with lengths [batch], `speech_token` [batch, speech time] with lengths
        [batch], speaker `embedding` [batch, speaker_embedding_dim].
        """
        batch = self.layouts(text_token, text_token_len, speech_token, speech_token_len)
        hidden = self.llm(self.embed(batch.kinds, batch.ids, embedding), batch.lengths)
        return self._scored(hidden, batch)
