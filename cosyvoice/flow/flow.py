"""The flow stage of V3: speech tokens and a reference voice in, mel out.

Token embeddings pass a small look-ahead block and are repeated to the frame rate of the mel; that is the
whole encoder, all else is the work of the estimator. The mel of the reference is given as a prefix, and the
part behind it is generated. Streaming keeps no state: each call gets all tokens so far, starts from the same
fixed noise, and chunk-causal attention leaves the finished chunks unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.config.model import FlowConfig
from cosyvoice.errors import ConfigError, GenerationError, ModelError, VoiceError
from cosyvoice.flow.dit import DiT
from cosyvoice.flow.flow_matching import ConditionalFlowMatching, Conditions, FlowMatchingDraws
from cosyvoice.flow.masks import padding_mask
from cosyvoice.flow.noise import released_start_noise
from cosyvoice.flow.pre_lookahead import PreLookahead

STREAMING_PROBABILITY = 0.5
"""Share of the training steps with chunk-causal attention."""
PREFIX_PROBABILITY = 0.5
"""Share of the training utterances that show a prefix of their mel."""
PREFIX_FRACTION = 0.3
"""The longest such prefix, as a fraction of the utterance."""


@dataclass(frozen=True)
class FlowBatch:
    """A padded training batch."""

    token: Tensor
    """Speech tokens [batch, tokens]; padding may hold any id of the vocabulary or a negative one."""
    token_len: Tensor
    """[batch]"""
    mel: Tensor
    """Log-mel [batch, frames, mel_dim], frames = tokens * token_mel_ratio."""
    mel_len: Tensor
    """token_len * token_mel_ratio, [batch]"""
    speaker_embedding: Tensor
    """[batch, speaker_embedding_dim], of any norm."""

    def to(self, device: torch.device | str) -> FlowBatch:
        """The same batch on another device."""
        return FlowBatch(
            self.token.to(device),
            self.token_len.to(device),
            self.mel.to(device),
            self.mel_len.to(device),
            self.speaker_embedding.to(device),
        )


@dataclass(frozen=True)
class TrainingDraws:
    """All random decisions of one training step."""

    streaming: bool
    prefix: Tensor
    """Frames of the mel that are shown as a prompt, int [batch]."""
    matching: FlowMatchingDraws

    @classmethod
    def sample(cls, batch: FlowBatch, generator: torch.Generator) -> TrainingDraws:
        """Streaming or not, prefixes of 0..30 % of half of the utterances, then the draws of the loss."""
        device = generator.device
        streaming = bool(torch.rand((), generator=generator, device=device) < STREAMING_PROBABILITY)
        shown, fraction = torch.rand((2, len(batch.mel_len)), generator=generator, device=device)
        longest = (PREFIX_FRACTION * batch.mel_len.to(device)).long()
        prefix = (fraction * (longest + 1)).long().clamp(max=longest) * (shown >= PREFIX_PROBABILITY)
        matching = FlowMatchingDraws.sample(batch.mel.transpose(1, 2), generator)
        return cls(streaming, prefix.to(batch.mel.device), matching)


class CausalMaskedDiffWithDiT(nn.Module):
    """Flow stage with a DiT estimator. The names of its parameters are those of the released `flow.pt`."""

    start_noise: Tensor

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        dit = config.dit
        if not config.mel_dim == dit.mel_dim == dit.out_channels:
            raise ConfigError(
                f"flow.mel_dim {config.mel_dim}, dit.mel_dim {dit.mel_dim} and dit.out_channels "
                f"{dit.out_channels} must be equal: the estimator maps mel to mel"
            )
        self.config = config
        self.input_embedding = nn.Embedding(config.vocab_size, dit.mu_dim)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_embedding_dim, dit.spk_dim)
        self.pre_lookahead_layer = PreLookahead(dit.mu_dim, config.pre_lookahead_channels, config.pre_lookahead_len)
        self.decoder = ConditionalFlowMatching(config.cfm, DiT(dit))
        self.register_buffer("start_noise", released_start_noise(config.mel_dim), persistent=False)

    def forward(self, batch: FlowBatch, draws: TrainingDraws) -> dict[str, Tensor]:
        """Training loss: {"loss": scalar}. Get `draws` from `TrainingDraws.sample(batch, generator)`."""
        conditions = self.training_conditions(batch, draws.prefix)
        mel = self._normalise(batch.mel).transpose(1, 2)
        return {"loss": self.decoder.loss(mel, conditions, draws.matching, draws.streaming)}

    def training_conditions(self, batch: FlowBatch, prefix: Tensor) -> Conditions:
        """Conditions of a batch, its first `prefix` [batch] frames shown as prompt mel.

        Raises `ModelError` where mel and tokens do not fit.
        """
        frames = batch.mel.shape[1]
        if frames != batch.token.shape[1] * self.config.token_mel_ratio:
            raise ModelError(
                f"{batch.token.shape[1]} tokens need {self.config.token_mel_ratio} mel frames each, "
                f"but the batch has {frames}; cut or pad the mel to the tokens"
            )
        known = padding_mask(batch.token_len, batch.token.shape[1]).unsqueeze(-1)
        mu = self._encode(self._embed(batch.token) * known)
        # Tokens, not mel_len, say which frames are real: an utterance's mel is cut to its tokens beforehand.
        mask = padding_mask(batch.token_len * self.config.token_mel_ratio, frames)
        mask = mask.unsqueeze(1).to(batch.mel.dtype)
        cond = self._normalise(batch.mel) * padding_mask(prefix, frames).unsqueeze(-1)
        return Conditions(mu, mask, self._speaker(batch.speaker_embedding), cond.transpose(1, 2))

    def inference_conditions(
        self,
        token: Tensor,
        prompt_token: Tensor,
        prompt_mel: Tensor,
        speaker_embedding: Tensor,
        *,
        finalize: bool = True,
    ) -> Conditions:
        """Conditions of prompt and new tokens together; arguments as in `inference`."""
        tokens = torch.cat([prompt_token, token], dim=1)
        if tokens.numel() and int(tokens.max()) >= self.config.vocab_size:
            raise ModelError(
                f"speech token {int(tokens.max())} is outside 0..{self.config.vocab_size - 1}; "
                "tokens and flow come from different models"
            )
        lookahead = 0 if finalize else self.config.pre_lookahead_len
        if tokens.shape[1] <= lookahead:
            raise GenerationError(
                f"{tokens.shape[1]} speech tokens are too few: the flow keeps the last {lookahead} as "
                "look-ahead; wait for more tokens or finalize"
            )
        known = tokens.shape[1] - lookahead
        embedded = self._embed(tokens)
        mu = self._encode(embedded[:, :known], embedded[:, known:] if lookahead else None)
        frames, prompt_frames = mu.shape[2], prompt_mel.shape[1]
        if prompt_frames >= frames:
            raise VoiceError(
                f"the mel of the reference has {prompt_frames} frames, but prompt and text together "
                f"only {frames}; cut the reference mel to its tokens"
            )
        cond = F.pad(self._normalise(prompt_mel).transpose(1, 2), (0, frames - prompt_frames))
        mask = torch.ones(len(mu), 1, frames, dtype=mu.dtype, device=mu.device)
        return Conditions(mu, mask, self._speaker(speaker_embedding), cond)

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
        conditions = self.inference_conditions(token, prompt_token, prompt_mel, speaker_embedding, finalize=finalize)
        batch, _, frames = conditions.cond.shape
        source = self.start_noise if noise is None else noise
        if frames > source.shape[2]:
            raise GenerationError(
                f"{frames} mel frames were asked for, but there is start noise for {source.shape[2]} only; "
                "split the text or pass longer noise"
            )
        mel = self.decoder.sample(
            source[:, :, :frames].expand(batch, -1, -1),
            conditions,
            streaming=streaming,
            n_timesteps=n_timesteps,
            solver=solver,
            cfg_rate=cfg_rate,
        )
        return mel[:, :, prompt_mel.shape[1] :] * self.config.mel_std + self.config.mel_mean

    def _normalise(self, mel: Tensor) -> Tensor:
        return (mel - self.config.mel_mean) / self.config.mel_std

    def _embed(self, token: Tensor) -> Tensor:
        """[batch, tokens] -> [batch, tokens, mu_dim]; negative ids, used as padding, count as 0."""
        return self.input_embedding(token.clamp(min=0))

    def _encode(self, embedded: Tensor, context: Tensor | None = None) -> Tensor:
        """Token embeddings [batch, tokens, mu_dim] -> mu [batch, mu_dim, frames]."""
        h = self.pre_lookahead_layer(embedded, context)
        return h.repeat_interleave(self.config.token_mel_ratio, dim=1).transpose(1, 2)

    def _speaker(self, embedding: Tensor) -> Tensor:
        return self.spk_embed_affine_layer(F.normalize(embedding, dim=1))
