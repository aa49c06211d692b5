"""The flow stage of the first generation, in which every frame sees all others of its call.

It streams in overlapping chunks of tokens: a call takes over, as its cache, the start noise and the encoder output of
the prompt and of the latest frames of the call before, so that both meet where they overlap. The frame rate of the mel
is no multiple of that of the tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from cosyvoice.config.model import MaskedDiffConfig
from cosyvoice.errors import GenerationError, VoiceError
from cosyvoice.flow.batch import FlowBatch
from cosyvoice.flow.conditional import ConditionalFlow
from cosyvoice.flow.flow_matching import ConditionalFlowMatching, Conditions
from cosyvoice.flow.length_regulator import InterpolateRegulator
from cosyvoice.flow.unet import ConditionalDecoder, check_channels
from cosyvoice.transformer.encoder import Encoder
from cosyvoice.transformer.masks import padding_mask


class MaskedDiffWithXvec(ConditionalFlow):
    """Flow stage with a U-Net. The names of its parameters are those of the released `flow.pt`."""

    config: MaskedDiffConfig

    def __init__(self, config: MaskedDiffConfig) -> None:
        check_channels(config.unet, config.mel_dim)
        super().__init__(config, config.encoder.input_size, config.mel_dim)
        self.encoder = Encoder(config.encoder)
        self.encoder_proj = nn.Linear(config.encoder.output_size, config.mel_dim)
        self.length_regulator = InterpolateRegulator(
            config.mel_dim, config.regulator_layers, config.overlap_tokens, config.overlap_frames
        )
        self.decoder = ConditionalFlowMatching(config.cfm, ConditionalDecoder(config.unet))

    def _encode_batch(self, batch: FlowBatch, embedded: Tensor, streaming: bool) -> tuple[Tensor, Tensor]:
        valid = padding_mask(batch.mel_len, batch.mel.shape[1])
        rows = self.encoder_proj(self.encoder(embedded, batch.token_len, chunk=0))
        return self.length_regulator(rows, valid).transpose(1, 2), valid

    def inference_conditions(
        self, token: Tensor, prompt_token: Tensor, prompt_mel: Tensor, speaker_embedding: Tensor
    ) -> Conditions:
        """Conditions of prompt and chunk together, without those of a cache; arguments as in `inference`."""
        tokens = self._checked_tokens(prompt_token, token)
        frames = self.config.mel_frames(token.shape[1])
        if frames < 1:
            raise GenerationError("there is no speech token to give a mel frame; wait for tokens")
        if bool(prompt_token.shape[1]) != bool(prompt_mel.shape[1]):
            raise VoiceError(
                f"the reference has {prompt_token.shape[1]} speech tokens and {prompt_mel.shape[1]} mel frames; "
                "give both, or neither"
            )
        rows = self.encoder_proj(self.encoder(self._embed(tokens), chunk=0))
        prompt, new = rows.split([prompt_token.shape[1], token.shape[1]], dim=1)
        prompt_frames = prompt_mel.shape[1]
        mu = self.length_regulator.inference(prompt, new, prompt_frames, frames).transpose(1, 2)
        return self._inference_conditions(mu, prompt_mel, speaker_embedding, prompt_frames + frames)

    @torch.inference_mode()
    def inference(
        self,
        token: Tensor,
        prompt_token: Tensor,
        prompt_mel: Tensor,
        speaker_embedding: Tensor,
        *,
        cache: Tensor | None = None,
        n_timesteps: int | None = None,
        solver: Literal["euler", "rk4"] | None = None,
        cfg_rate: float | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mel frames [1, mel_dim, frames] of the chunk `token`, and the cache for the next chunk.

        `token` [1, tokens] are the tokens of this chunk, of which the next one computes the last `overlap_tokens`
        again; `prompt_token`, `prompt_mel` and `speaker_embedding` are those of
        `CausalConditionalFlow.inference`. A cache is [1, mel_dim, frames, 2]: start noise and encoder output of the
        prompt's frames, then of the last `cached_frames` of the chunk; None where there is no chunk before. `noise`
        [1, mel_dim, at least prompt and new frames] defaults to the beginning of the fixed noise of the released
        causal models.

        Raises `GenerationError` for no token, fewer frames than the cache has, or more than there is noise,
        `VoiceError` for a prompt of tokens without mel or the reverse, `ModelError` for a token outside the vocabulary.
        """
        conditions = self.inference_conditions(token, prompt_token, prompt_mel, speaker_embedding)
        frames, prompt_frames = conditions.cond.shape[2], prompt_mel.shape[1]
        start, mu = self._noise(noise, frames).clone(), conditions.mu.clone()
        if cache is not None:
            cached = cache.shape[2]
            if cached > frames:
                raise GenerationError(
                    f"a chunk of {frames - prompt_frames} mel frames cannot continue {cached - prompt_frames} cached "
                    f"ones; begin each chunk with the last {self.config.overlap_tokens} tokens of the one before"
                )
            start[:, :, :cached], mu[:, :, :cached] = cache.unbind(3)
        conditions = Conditions(mu, conditions.mask, conditions.spks, conditions.cond)
        mel = self.decoder.sample(start, conditions, n_timesteps=n_timesteps, solver=solver, cfg_rate=cfg_rate)
        both = torch.stack([start, mu], dim=3)
        kept = torch.cat([both[:, :, :prompt_frames], both[:, :, -self.config.cached_frames :]], dim=2)
        return self._restore(mel[:, :, prompt_frames:]), kept
