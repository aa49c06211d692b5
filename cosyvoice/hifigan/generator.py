"""HiFT: mel spectrogram and source signal to samples, by upsampling convolutions and an inverse STFT.

The causal vocoder of V3 looks ahead in two places only (F0 predictor and first convolution). With
`finalize=False` it therefore says fewer samples than it was given frames for, and exactly those that it says
again when more frames have come. No state is kept between calls: the caller passes the whole mel so far, and
takes the samples that are new.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from cosyvoice.config.model import HiFTConfig
from cosyvoice.errors import ConfigError, GenerationError
from cosyvoice.hifigan import layers
from cosyvoice.hifigan.f0_predictor import LOOK_RIGHT, CausalConvF0Predictor
from cosyvoice.hifigan.layers import CausalDownsample, CausalUpsample, ResBlock, SidedConv1d
from cosyvoice.hifigan.noise import SourceNoise
from cosyvoice.hifigan.source import HarmonicSource
from cosyvoice.hifigan.spectrum import inverse_spectrum, source_spectrum

LAST_SLOPE = 0.01
"""Slope of the last leaky ReLU, which unlike the others is not `lrelu_slope`."""

SILENT_MEL = math.log(1e-5)
"""Log-mel of silence: the floor of the features."""


class CausalHiFTGenerator(nn.Module):
    """The vocoder of V3. Parameter names are those of the released `hift.pt`."""

    def __init__(self, config: HiFTConfig) -> None:
        """Build an untrained vocoder; raises `ConfigError` where lists of `config` do not fit each other."""
        super().__init__()
        _check(config)
        self.config = config
        self.hop = math.prod(config.upsample_rates) * config.istft_hop
        self.f0_predictor = CausalConvF0Predictor(config.in_channels, config.f0_channels)
        self.m_source = HarmonicSource(
            config.sampling_rate,
            self.hop,
            config.nb_harmonics,
            config.nsf_alpha,
            config.nsf_sigma,
            config.nsf_voiced_threshold,
            config.source_phase,
        )
        widths = [config.base_channels // 2**i for i in range(len(config.upsample_rates) + 1)]
        bins = config.istft_n_fft + 2
        pre = SidedConv1d(config.in_channels, widths[0], config.conv_pre_look_right + 1, side="right")
        self.conv_pre = weight_norm(pre)
        self.ups = nn.ModuleList(
            weight_norm(CausalUpsample(widths[i], widths[i + 1], kernel, rate))
            for i, (rate, kernel) in enumerate(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))
        )
        # The source enters every stage at that stage's rate: what is left of the upsampling after it.
        rates = [math.prod(config.upsample_rates[i + 1 :]) for i in range(len(config.upsample_rates))]
        self.source_downs = nn.ModuleList(
            CausalDownsample(bins, width, rate) for width, rate in zip(widths[1:], rates, strict=True)
        )
        self.source_resblocks = nn.ModuleList(
            ResBlock(width, kernel, dilations)
            for width, kernel, dilations in zip(
                widths[1:],
                config.source_resblock_kernel_sizes,
                config.source_resblock_dilation_sizes,
                strict=True,
            )
        )
        self.resblocks = nn.ModuleList(
            ResBlock(width, kernel, dilations)
            for width in widths[1:]
            for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        )
        self.conv_post = weight_norm(SidedConv1d(widths[-1], bins, 7))

    def forward(self, mel: Tensor, f0: Tensor, noise: Tensor) -> Tensor:
        """Samples [batch, frames * hop] for training, from a given F0; gradients reach every weight but F0's.

        Args:
            mel: [batch, in_channels, frames].
            f0: [batch, frames] in Hz, 0 where unvoiced.
            noise: [batch, frames * hop, nb_harmonics + 1], of unit scale (see `training_noise`; a released
                model is continued with the noise it was trained with, `ReleasedNoise`).
        """
        return self.decode(mel, self.m_source(f0, noise))

    def training_noise(self, batch: int, frames: int, generator: torch.Generator) -> Tensor:
        """Fresh noise for `forward`, [batch, frames * hop, nb_harmonics + 1], on the generator's device."""
        shape = (batch, frames * self.hop, self.m_source.channels)
        return torch.randn(shape, generator=generator, device=generator.device)

    @torch.no_grad()
    def inference(self, mel: Tensor, noise: SourceNoise, finalize: bool = True) -> Tensor:
        """Samples [batch, count] of `mel` [batch, in_channels, frames].

        `finalize=False` says that the utterance goes on: `count` is then `chunk_samples(frames)` instead of
        frames * hop, and the samples equal the first ones of the finished utterance. Raises `GenerationError`
        if the frames are too few or the mel has another shape.
        """
        if mel.dim() != 3 or mel.shape[1] != self.config.in_channels:
            raise GenerationError(
                f"the vocoder got a mel of shape {tuple(mel.shape)} and needs "
                f"[batch, {self.config.in_channels}, frames]; transpose it or match the mel settings"
            )
        needed = 1 if finalize else self.look_ahead + 1
        if mel.shape[2] < needed:
            raise GenerationError(
                f"the vocoder got {mel.shape[2]} mel frames and needs {needed}: "
                "wait for more frames, or finish the utterance"
            )
        frames, extra = mel.shape[2], self.config.final_silence if finalize else 0
        mel = F.pad(mel, (0, extra), value=SILENT_MEL)
        f0 = self.predict_f0(mel, finalize)
        source = self.source(f0, noise)
        samples = self.decode(mel[:, :, : f0.shape[1]], source, finalize)
        return samples[:, : frames * self.hop] if extra else samples

    @property
    def look_ahead(self) -> int:
        """Mel frames that an unfinished utterance holds back."""
        return LOOK_RIGHT + self.config.conv_pre_look_right + 1

    def chunk_samples(self, frames: int) -> int:
        """Samples that `inference(..., finalize=False)` returns for `frames` mel frames."""
        return max(frames - self.look_ahead, 0) * self.hop

    def predict_f0(self, mel: Tensor, finalize: bool = True) -> Tensor:
        """F0 [batch, frames] in Hz (float64 if `f0_in_float64`); 3 frames fewer if not `finalize`."""
        # Of the two networks only this one sees the mel normalised.
        mel = (mel - self.config.mel_mean) / self.config.mel_std
        if self.config.f0_in_float64:
            return self.f0_predictor.predict_double(mel, finalize)
        return self.f0_predictor(mel, finalize)

    def source(self, f0: Tensor, noise: SourceNoise) -> Tensor:
        """The source signal [batch, 1, frames * hop] of `f0` [batch, frames] with noise by position."""
        f0 = f0.float()
        return self.m_source(f0, noise(f0.shape[1] * self.hop).to(f0.device))

    def source_spectrum(self, source: Tensor) -> Tensor:
        """Real over imaginary parts [batch, n_fft + 2, samples / hop + 1] of `source` [batch, 1, samples]."""
        return source_spectrum(source.squeeze(1), self.config.istft_n_fft, self.config.istft_hop)

    def decode(self, mel: Tensor, source: Tensor, finalize: bool = True) -> Tensor:
        """Samples [batch, frames * hop] within ±audio_limit of `mel` and `source` [batch, 1, frames * hop].

        With `finalize=False` the last `conv_pre_look_right` frames of `mel` are context, and one more frame
        of samples is dropped because the inverse STFT there lacks its right half.
        """
        config = self.config
        spectrum = self.source_spectrum(source)
        x = self.conv_pre(mel, pad=finalize)
        if not finalize:
            spectrum = spectrum[:, :, : x.shape[2] * (self.hop // config.istft_hop) + 1]
        branches = len(config.resblock_kernel_sizes)
        for i, (up, down, source_block) in enumerate(
            zip(self.ups, self.source_downs, self.source_resblocks, strict=True)
        ):
            x = up(F.leaky_relu(x, config.lrelu_slope))
            if i == len(self.ups) - 1:
                # One more frame than hops: the STFT is centred and has a frame at either end.
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + source_block(down(spectrum))
            blocks = self.resblocks[i * branches : (i + 1) * branches]
            x = sum((block(x) for block in blocks[1:]), start=blocks[0](x)) / branches
        head = self.conv_post(F.leaky_relu(x, LAST_SLOPE))
        samples = inverse_spectrum(head, config.istft_n_fft, config.istft_hop, config.free_phase)
        samples = samples.clamp(-config.audio_limit, config.audio_limit)
        return samples if finalize else samples[:, : -self.hop]

    def remove_weight_norm(self) -> None:
        """Fold weight norms for faster inference; the state dict then no longer has the released names.

        An F0 predictor that runs in float64 keeps its own: folding would round its weights to float32, and the
        phase of the source adds that up over the whole utterance.
        """
        for name, child in self.named_children():
            if name != "f0_predictor" or not self.config.f0_in_float64:
                layers.remove_weight_norm(child)


def _check(config: HiFTConfig) -> None:
    stages = len(config.upsample_rates)
    lengths = {
        "upsample_kernel_sizes": (len(config.upsample_kernel_sizes), stages),
        "source_resblock_kernel_sizes": (len(config.source_resblock_kernel_sizes), stages),
        "source_resblock_dilation_sizes": (len(config.source_resblock_dilation_sizes), stages),
        "resblock_dilation_sizes": (len(config.resblock_dilation_sizes), len(config.resblock_kernel_sizes)),
    }
    for name, (length, expected) in lengths.items():
        if length != expected:
            raise ConfigError(f"hift.{name} has {length} entries and needs {expected}, one for each stage it serves")
    if config.base_channels % 2**stages:
        raise ConfigError(
            f"hift.base_channels is {config.base_channels}, which {stages} stages cannot halve; "
            f"choose a multiple of {2**stages}"
        )
