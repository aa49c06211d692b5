"""What the flows of all generations have in common: their conditions, their training loss, their start noise.

Token embeddings pass an encoder and become `mu` at the frame rate of the mel; the speaker embedding is normalised and
projected; the mel of the reference, or a prefix of the mel in training, is shown as it is. `ConditionalFlow` leaves
the encoder to its subclasses. `CausalConditionalFlow` adds inference with a fixed number of frames a token, which
keeps no state: each call gets all tokens so far and starts from the same fixed noise, and chunk-causal attention
leaves the finished chunks unchanged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.config.model import CausalMaskedDiffConfig, FlowConfig, MaskedDiffConfig
from cosyvoice.errors import GenerationError, ModelError, VoiceError
from cosyvoice.flow.batch import FlowBatch, TrainingDraws
from cosyvoice.flow.flow_matching import ConditionalFlowMatching, Conditions
from cosyvoice.flow.noise import released_start_noise
from cosyvoice.transformer.masks import padding_mask


class ConditionalFlow(nn.Module, ABC):
    """Base of the flow stages. Subclasses add `decoder` and what `_encode_batch` needs."""

    decoder: ConditionalFlowMatching
    start_noise: Tensor
    config: FlowConfig | MaskedDiffConfig | CausalMaskedDiffConfig

    def __init__(
        self, config: FlowConfig | MaskedDiffConfig | CausalMaskedDiffConfig, token_dim: int, speaker_dim: int
    ) -> None:
        """`token_dim` and `speaker_dim` are the widths of an embedded token and of the projected speaker."""
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(config.vocab_size, token_dim)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_embedding_dim, speaker_dim)
        self.register_buffer("start_noise", released_start_noise(config.mel_dim), persistent=False)

    def forward(self, batch: FlowBatch, draws: TrainingDraws) -> dict[str, Tensor]:
        """Training loss: {"loss": scalar}. Get `draws` from `TrainingDraws.sample(batch, generator)`."""
        conditions = self.training_conditions(batch, draws.prefix, draws.streaming)
        mel = self._normalise(batch.mel).transpose(1, 2)
        return {"loss": self.decoder.loss(mel, conditions, draws.matching, draws.streaming)}

    def training_conditions(self, batch: FlowBatch, prefix: Tensor, streaming: bool = False) -> Conditions:
        """Conditions of a batch, its first `prefix` [batch] frames shown as prompt mel.

        Raises `ModelError` where mel and tokens do not fit.
        """
        known = padding_mask(batch.token_len, batch.token.shape[1]).unsqueeze(-1)
        mu, valid = self._encode_batch(batch, self._embed(batch.token) * known, streaming)
        mask = valid.unsqueeze(1).to(batch.mel.dtype)
        cond = self._normalise(batch.mel) * padding_mask(prefix, batch.mel.shape[1]).unsqueeze(-1)
        return Conditions(mu, mask, self._speaker(batch.speaker_embedding), cond.transpose(1, 2))

    @abstractmethod
    def _encode_batch(self, batch: FlowBatch, embedded: Tensor, streaming: bool) -> tuple[Tensor, Tensor]:
        """mu [batch, mu_dim, frames] of the tokens `embedded` [batch, tokens, token_dim], and which of its frames are
        real, bool [batch, frames]."""

    def _inference_conditions(
        self, mu: Tensor, prompt_mel: Tensor, speaker_embedding: Tensor, frames: int
    ) -> Conditions:
        """Conditions of prompt and new frames, `frames` together, none of them padding."""
        cond = F.pad(self._normalise(prompt_mel).transpose(1, 2), (0, frames - prompt_mel.shape[1]))
        mask = torch.ones(len(mu), 1, frames, dtype=mu.dtype, device=mu.device)
        return Conditions(mu, mask, self._speaker(speaker_embedding), cond)

    def _checked_tokens(self, prompt_token: Tensor, token: Tensor) -> Tensor:
        """Both behind each other; raises `ModelError` for a token outside the vocabulary."""
        tokens = torch.cat([prompt_token, token], dim=1)
        if tokens.numel() and int(tokens.max()) >= self.config.vocab_size:
            raise ModelError(
                f"speech token {int(tokens.max())} is outside 0..{self.config.vocab_size - 1}; "
                "tokens and flow come from different models"
            )
        return tokens

    def _noise(self, noise: Tensor | None, frames: int) -> Tensor:
        """The first `frames` of `noise` [1 or batch, mel_dim, time], or of the fixed noise of the released models."""
        source = self.start_noise if noise is None else noise
        if frames > source.shape[2]:
            raise GenerationError(
                f"{frames} mel frames were asked for, but there is start noise for {source.shape[2]} only; "
                "split the text or pass longer noise"
            )
        return source[:, :, :frames]

    def _normalise(self, mel: Tensor) -> Tensor:
        return (mel - self.config.mel_mean) / self.config.mel_std

    def _restore(self, mel: Tensor) -> Tensor:
        return mel * self.config.mel_std + self.config.mel_mean

    def _embed(self, token: Tensor) -> Tensor:
        """[batch, tokens] -> [batch, tokens, token_dim]; negative ids, used as padding, count as 0."""
        return self.input_embedding(token.clamp(min=0))

    def _speaker(self, embedding: Tensor) -> Tensor:
        return self.spk_embed_affine_layer(F.normalize(embedding, dim=1))


class CausalConditionalFlow(ConditionalFlow):
    """Base of the flows with a fixed number of frames a token. Subclasses add `_encode`."""

    config: FlowConfig | CausalMaskedDiffConfig

    @abstractmethod
    def _encode(
        self, embedded: Tensor, context: Tensor | None = None, lengths: Tensor | None = None, streaming: bool = False
    ) -> Tensor:
        """mu [batch, mu_dim, frames] of the tokens `embedded` [batch, tokens, token_dim].

        `context` holds the embedded tokens that follow and are only looked at, `lengths` [batch] says how many are
        real where some are padding, and with `streaming` attention is chunk-causal.
        """

    def _encode_batch(self, batch: FlowBatch, embedded: Tensor, streaming: bool) -> tuple[Tensor, Tensor]:
        frames, ratio = batch.mel.shape[1], self.config.token_mel_ratio
        if frames != batch.token.shape[1] * ratio:
            raise ModelError(
                f"{batch.token.shape[1]} tokens need {ratio} mel frames each, "
                f"but the batch has {frames}; cut or pad the mel to the tokens"
            )
        mu = self._encode(embedded, lengths=batch.token_len, streaming=streaming)
        # Tokens, not mel_len, say which frames are real: an utterance's mel is cut to its tokens beforehand.
        return mu, padding_mask(batch.token_len * ratio, frames)

    def inference_conditions(
        self,
        token: Tensor,
        prompt_token: Tensor,
        prompt_mel: Tensor,
        speaker_embedding: Tensor,
        *,
        streaming: bool = False,
        finalize: bool = True,
    ) -> Conditions:
        """Conditions of prompt and new tokens together; arguments as in `inference`."""
        tokens = self._checked_tokens(prompt_token, token)
        lookahead = 0 if finalize else self.config.pre_lookahead_len
        if tokens.shape[1] <= lookahead:
            raise GenerationError(
                f"{tokens.shape[1]} speech tokens are too few: the flow keeps the last {lookahead} as "
                "look-ahead; wait for more tokens or finalize"
            )
        known = tokens.shape[1] - lookahead
        frames = known * self.config.token_mel_ratio
        if prompt_mel.shape[1] >= frames:
            raise VoiceError(
                f"the mel of the reference has {prompt_mel.shape[1]} frames, but prompt and text together "
                f"only {frames}; cut the reference mel to its tokens"
            )
        embedded = self._embed(tokens)
        context = embedded[:, known:] if lookahead else None
        mu = self._encode(embedded[:, :known], context, streaming=streaming)
        return self._inference_conditions(mu, prompt_mel, speaker_embedding, frames)

    @torch.inference_mode()
    def inference(
        self,
        token: Tensor,
        prompt_token: Tensor,
        prompt_mel: Tensor,
        speaker_embedding: Tensor,
        *,
        streaming: bool = False,
        finalize: bool = True,
        n_timesteps: int | None = None,
        solver: Literal["euler", "rk4"] | None = None,
        cfg_rate: float | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """New mel frames [batch, mel_dim, frames] behind the prompt.

        `token` [batch, tokens] are all tokens generated so far, `prompt_token` [batch, prompt tokens] and
        `prompt_mel` [batch, prompt frames, mel_dim] come from the reference (both may be empty),
        `speaker_embedding` is [batch, speaker_embedding_dim]. `streaming` makes attention chunk-causal.
        Without `finalize` the last `pre_lookahead_len` tokens are read as context and give no frames.
        `n_timesteps`, `solver` and `cfg_rate` default to the configuration, `noise` [1 or batch, mel_dim, at
        least prompt and new frames] to the fixed noise of the released models.

        Raises `GenerationError` for too few tokens or for more frames than there is noise, `VoiceError` for a
        prompt that leaves no room, `ModelError` for a token outside the vocabulary.
        """
        conditions = self.inference_conditions(
            token, prompt_token, prompt_mel, speaker_embedding, streaming=streaming, finalize=finalize
        )
        batch, _, frames = conditions.cond.shape
        mel = self.decoder.sample(
            self._noise(noise, frames).expand(batch, -1, -1),
            conditions,
            streaming=streaming,
            n_timesteps=n_timesteps,
            solver=solver,
            cfg_rate=cfg_rate,
        )
        return self._restore(mel[:, :, prompt_mel.shape[1] :])
