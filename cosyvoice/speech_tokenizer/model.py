"""Supervised speech tokenizer: log-mel in, 25 Hz tokens out, trained through recognition.

A convolutional encoder reduces 100 Hz features to 25 Hz, FSQ turns every frame into a token, and decoders that see
nothing but tokens must recognise the phones (CTC and frame by frame) and predict pitch, energy and spectrum. So the
tokens carry what was said and its melody, and leave the speaker to the other conditions of the flow. The CTC
decoder stays in the model: it is the project's phone recogniser.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.config.model import SpeechTokenizerConfig
from cosyvoice.speech_tokenizer.fsq import FSQ

DOWNSAMPLING = 4
"""Feature frames (100 Hz) a token (25 Hz)."""
LABELS_PER_TOKEN = 2
"""Decoder frames (50 Hz) a token."""


class ConvBlock(nn.Module):
    """Residual block: layer norm over channels, two convolutions, GELU between them."""

    def __init__(self, channels: int, kernel: int = 3, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        pad = dilation * (kernel - 1) // 2
        self.norm = nn.LayerNorm(channels)
        self.conv1 = nn.Conv1d(channels, channels, kernel, padding=pad, dilation=dilation)
        self.conv2 = nn.Conv1d(channels, channels, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[batch, channels, time], mask [batch, 1, time] -> [batch, channels, time]."""
        h = self.norm(x.transpose(1, 2)).transpose(1, 2) * mask
        h = F.gelu(self.conv1(h)) * mask
        return x + self.dropout(self.conv2(h))


def length_mask(lengths: Tensor, frames: int) -> Tensor:
    """[batch] -> [batch, 1, frames], 1.0 at valid frames."""
    return (torch.arange(frames, device=lengths.device)[None] < lengths[:, None]).float()[:, None]


@dataclass
class TokenizerOutput:
    """What the decoders say, all at 50 Hz: [batch, 2 * tokens, ...]."""

    codes: Tensor
    """Quantised values [batch, tokens, fsq_channels]."""
    ctc_logits: Tensor
    """[batch, frames, phones + 1]; class 0 is the blank."""
    phone_logits: Tensor
    """[batch, frames, phones]."""
    prosody: Tensor
    """Voicing logit, normalised log-F0, energy: [batch, frames, 3]."""
    mel: Tensor
    """[batch, frames, n_mels]; given the utterance's mean and deviation."""


class SpeechTokenizer(nn.Module):
    """See the module's description."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.stem = nn.ModuleList([nn.Conv1d(config.n_mels, width, 5, 2, 2), nn.Conv1d(width, width, 5, 2, 2)])
        self.encoder = nn.ModuleList(
            ConvBlock(width, dilation=1 + i % 2, dropout=config.dropout) for i in range(config.encoder_blocks)
        )
        self.encoder_norm = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, config.fsq_channels)
        self.fsq = FSQ(config.fsq_channels, config.fsq_levels)
        self.project_out = nn.Linear(config.fsq_channels, width)
        self.decoder = nn.ModuleList(ConvBlock(width, dropout=config.dropout) for _ in range(config.decoder_blocks))
        self.decoder_norm = nn.LayerNorm(width)
        self.upsample = nn.Linear(width, LABELS_PER_TOKEN * width)
        self.ctc_head = nn.Linear(width, config.phones + 1)
        self.phone_head = nn.Linear(width, config.phones)
        self.prosody_head = nn.Linear(width, 3)
        self.voice_condition = nn.Linear(2 * config.mel_bins, width)
        self.mel_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.mel_bins))

    def token_lengths(self, lengths: Tensor) -> Tensor:
        """Tokens of `lengths` feature frames (100 Hz): a frame in four, rounded up."""
        return (lengths + DOWNSAMPLING - 1) // DOWNSAMPLING

    def latent(self, feats: Tensor, lengths: Tensor) -> Tensor:
        """[batch, n_mels, frames at 100 Hz] and lengths [batch] -> unquantised values [batch, tokens, channels]."""
        x = feats * length_mask(lengths, feats.shape[2])
        for conv in self.stem:
            x = F.gelu(conv(x))
            lengths = (lengths + 1) // 2
            x = x * length_mask(lengths, x.shape[2])
        mask = length_mask(lengths, x.shape[2])
        for block in self.encoder:
            x = block(x, mask)
        return self.project_in(self.encoder_norm(x.transpose(1, 2)))

    @torch.no_grad()
    def encode(self, feats: Tensor, lengths: Tensor) -> Tensor:
        """Token ids [batch, tokens] of features [batch, n_mels, frames]; ids behind an item's end are meaningless."""
        return self.fsq.indices(self.latent(feats, lengths))

    def decode(self, codes: Tensor, token_lengths: Tensor) -> Tensor:
        """Quantised values [batch, tokens, channels] -> hidden [batch, 2 * tokens, width]."""
        mask = length_mask(token_lengths, codes.shape[1])
        x = self.project_out(codes).transpose(1, 2)
        for block in self.decoder:
            x = block(x, mask)
        hidden = self.upsample(self.decoder_norm(x.transpose(1, 2)))
        return hidden.unflatten(2, (LABELS_PER_TOKEN, -1)).flatten(1, 2)

    def forward(self, feats: Tensor, lengths: Tensor, voice: Tensor) -> TokenizerOutput:
        """Training: `voice` [batch, 2 * mel_bins] is the mean and deviation over time of the utterance's mel."""
        codes = self.fsq(self.latent(feats, lengths))
        hidden = self.decode(codes, self.token_lengths(lengths))
        conditioned = hidden + self.voice_condition(voice)[:, None]
        return TokenizerOutput(
            codes,
            self.ctc_head(hidden),
            self.phone_head(hidden),
            self.prosody_head(hidden),
            self.mel_head(conditioned),
        )

    @torch.no_grad()
    def recognise(self, feats: Tensor, lengths: Tensor) -> list[list[int]]:
        """Phone classes (1..phones) of each item: best path of the CTC decoder, repetitions and blanks removed."""
        tokens = self.token_lengths(lengths)
        hidden = self.decode(self.fsq(self.latent(feats, lengths)), tokens)
        best = self.ctc_head(hidden).argmax(-1)
        spoken = []
        for row, count in zip(best.tolist(), (tokens * LABELS_PER_TOKEN).tolist(), strict=True):
            path = row[:count]
            spoken.append([c for i, c in enumerate(path) if c and (i == 0 or path[i - 1] != c)])
        return spoken
