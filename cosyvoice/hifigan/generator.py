"""HiFT: mel spectrogram and source signal to samples, by upsampling convolutions and an inverse STFT.

`HiFT` is what the vocoders of all generations have in common; they differ in which side their layers see.
The causal vocoder of V3 looks ahead in two places only (F0 predictor and first convolution). With
`finalize=False` it therefore says fewer samples than it was given frames for, and exactly those that it says
again when more frames have come. No state is kept between calls: the caller passes the whole mel so far, and
takes the samples that are new. The vocoder of V1 and V2 sees both sides everywhere; its chunks overlap, and the
caller carries the source of the overlap from one to the next.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from cosyvoice.config.model import HiFTConfig
from cosyvoice.errors import ConfigError, GenerationError
from cosyvoice.hifigan import layers
from cosyvoice.hifigan.f0_predictor import LOOK_RIGHT, CausalConvF0Predictor, ConvF0Predictor
from cosyvoice.hifigan.layers import CausalDownsample, CausalUpsample, ResBlock, Side, SidedConv1d
from cosyvoice.hifigan.noise import SourceNoise
from cosyvoice.hifigan.source import HarmonicSource
from cosyvoice.hifigan.spectrum import inverse_spectrum, source_spectrum

LAST_SLOPE = 0.01
"""Slope of the last leaky ReLU, which unlike the others is not `lrelu_slope`."""
PRE_KERNEL = 7
"""Of the first convolution of the vocoder that sees both sides."""
POST_KERNEL = 7
"""Of the last convolution."""

SILENT_MEL = math.log(1e-5)
"""Log-mel of silence: the floor of the features."""


class HiFT(nn.Module, ABC):
    """What the vocoders of all generations share. Parameter names are those of the released `hift.pt`."""

    side: Side
    """What the residual blocks and the last convolution see."""

    def __init__(self, config: HiFTConfig) -> None:
        """Build an untrained vocoder; raises `ConfigError` where entries of `config` do not fit each other."""
        super().__init__()
        self._check(config)
        self.config = config
        self.hop = math.prod(config.upsample_rates) * config.istft_hop
        self.f0_predictor = self._f0_predictor()
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
        self.conv_pre = weight_norm(self._conv_pre(widths[0]))
        self.ups = nn.ModuleList(
            weight_norm(self._upsample(widths[i], widths[i + 1], kernel, rate))
            for i, (rate, kernel) in enumerate(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))
        )
        # The source enters every stage at that stage's rate: what is left of the upsampling after it.
        rates = [math.prod(config.upsample_rates[i + 1 :]) for i in range(len(config.upsample_rates))]
        self.source_downs = nn.ModuleList(
            self._downsample(bins, width, rate) for width, rate in zip(widths[1:], rates, strict=True)
        )
        self.source_resblocks = nn.ModuleList(
            ResBlock(width, kernel, dilations, self.side)
            for width, kernel, dilations in zip(
                widths[1:],
                config.source_resblock_kernel_sizes,
                config.source_resblock_dilation_sizes,
                strict=True,
            )
        )
        self.resblocks = nn.ModuleList(
            ResBlock(width, kernel, dilations, self.side)
            for width in widths[1:]
            for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        )
        self.conv_post = weight_norm(SidedConv1d(widths[-1], bins, POST_KERNEL, side=self.side))

    @abstractmethod
    def _f0_predictor(self) -> ConvF0Predictor: ...

    @abstractmethod
    def _conv_pre(self, width: int) -> nn.Module: ...

    @abstractmethod
    def _upsample(self, inputs: int, outputs: int, kernel: int, rate: int) -> nn.Module: ...

    @abstractmethod
    def _downsample(self, inputs: int, outputs: int, rate: int) -> nn.Module: ...

    def _check(self, config: HiFTConfig) -> None:
        """Raise `ConfigError` where entries of `config` do not fit each other."""
        _check_lengths(config)

    def forward(self, mel: Tensor, f0: Tensor, noise: Tensor, initial_phase: Tensor | None = None) -> Tensor:
        """Samples [batch, frames * hop] for training, from a given F0; gradients reach every weight but F0's.

        Args:
            mel: [batch, in_channels, frames].
            f0: [batch, frames] in Hz, 0 where unvoiced.
            noise: [batch, frames * hop, nb_harmonics + 1], of unit scale (see `training_noise`; a released
                model is continued with the noise it was trained with, which for V3 is `ReleasedNoise`).
            initial_phase: of the harmonics, [batch, nb_harmonics + 1] in radians, zero by default.
        """
        return self.decode(mel, self.m_source(f0, noise, initial_phase))

    def training_noise(self, batch: int, frames: int, generator: torch.Generator) -> Tensor:
        """Fresh noise for `forward`, [batch, frames * hop, nb_harmonics + 1], on the generator's device."""
        shape = (batch, frames * self.hop, self.m_source.channels)
        return torch.randn(shape, generator=generator, device=generator.device)

    def predict_f0(self, mel: Tensor, finalize: bool = True) -> Tensor:
        """F0 [batch, frames] in Hz (float64 if `f0_in_float64`); without `finalize`, of the frames known so far."""
        # Of the two networks only this one sees the mel normalised.
        mel = (mel - self.config.mel_mean) / self.config.mel_std
        if self.config.f0_in_float64:
            return self.f0_predictor.predict_double(mel, finalize)
        return self.f0_predictor(mel, finalize)

    def source_spectrum(self, source: Tensor) -> Tensor:
        """Real over imaginary parts [batch, n_fft + 2, samples / hop + 1] of `source` [batch, 1, samples]."""
        return source_spectrum(source.squeeze(1), self.config.istft_n_fft, self.config.istft_hop)

    def decode(self, mel: Tensor, source: Tensor) -> Tensor:
        """Samples [batch, frames * hop] within ±audio_limit of `mel` and `source` [batch, 1, frames * hop]."""
        return self._samples(self.conv_pre(mel), self.source_spectrum(source))

    def _samples(self, x: Tensor, spectrum: Tensor) -> Tensor:
        """The network behind its first convolution, whose output is `x`."""
        config = self.config
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
        return samples.clamp(-config.audio_limit, config.audio_limit)

    def remove_weight_norm(self) -> None:
        """Fold weight norms for faster inference; the state dict then no longer has the released names.

        An F0 predictor that runs in float64 keeps its own: folding would round its weights to float32, and the
        phase of the source adds that up over the whole utterance.
        """
        for name, child in self.named_children():
            if name != "f0_predictor" or not self.config.f0_in_float64:
                layers.remove_weight_norm(child)

    def _check_mel(self, mel: Tensor, needed: int) -> None:
        """Raise `GenerationError` for a `mel` of another shape, or of fewer than `needed` frames."""
        if mel.dim() != 3 or mel.shape[1] != self.config.in_channels:
            raise GenerationError(
                f"the vocoder got a mel of shape {tuple(mel.shape)} and needs "
                f"[batch, {self.config.in_channels}, frames]; transpose it or match the mel settings"
            )
        if mel.shape[2] < needed:
            raise GenerationError(
                f"the vocoder got {mel.shape[2]} mel frames and needs {needed}: "
                "wait for more frames, or finish the utterance"
            )


class CausalHiFTGenerator(HiFT):
    """The vocoder of V3."""

    side: Side = "left"

    def _f0_predictor(self) -> ConvF0Predictor:
        return CausalConvF0Predictor(self.config.in_channels, self.config.f0_channels)

    def _conv_pre(self, width: int) -> nn.Module:
        return SidedConv1d(self.config.in_channels, width, self.config.conv_pre_look_right + 1, side="right")

    def _upsample(self, inputs: int, outputs: int, kernel: int, rate: int) -> nn.Module:
        return CausalUpsample(inputs, outputs, kernel, rate)

    def _downsample(self, inputs: int, outputs: int, rate: int) -> nn.Module:
        return CausalDownsample(inputs, outputs, rate)

    @torch.no_grad()
    def inference(self, mel: Tensor, noise: SourceNoise, finalize: bool = True) -> Tensor:
        """Samples [batch, count] of `mel` [batch, in_channels, frames].

        `finalize=False` says that the utterance goes on: `count` is then `chunk_samples(frames)` instead of
        frames * hop, and the samples equal the first ones of the finished utterance. Raises `GenerationError`
        if the frames are too few or the mel has another shape.
        """
        self._check_mel(mel, 1 if finalize else self.look_ahead + 1)
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

    def source(self, f0: Tensor, noise: SourceNoise) -> Tensor:
        """The source signal [batch, 1, frames * hop] of `f0` [batch, frames] with noise by position."""
        f0 = f0.float()
        return self.m_source(f0, noise(f0.shape[1] * self.hop).to(f0.device))

    def decode(self, mel: Tensor, source: Tensor, finalize: bool = True) -> Tensor:
        """Samples [batch, frames * hop] within ±audio_limit of `mel` and `source` [batch, 1, frames * hop].

        With `finalize=False` the last `conv_pre_look_right` frames of `mel` are context, and one more frame
        of samples is dropped because the inverse STFT there lacks its right half.
        """
        if finalize:
            return super().decode(mel, source)
        x = self.conv_pre(mel, pad=False)
        frames = x.shape[2] * (self.hop // self.config.istft_hop) + 1
        return self._samples(x, self.source_spectrum(source)[:, :, :frames])[:, : -self.hop]


class HiFTGenerator(HiFT):
    """The vocoder of V1 and V2."""

    side: Side = "both"

    def _f0_predictor(self) -> ConvF0Predictor:
        return ConvF0Predictor(self.config.in_channels, self.config.f0_channels)

    def _conv_pre(self, width: int) -> nn.Module:
        return SidedConv1d(self.config.in_channels, width, PRE_KERNEL, side=self.side)

    def _upsample(self, inputs: int, outputs: int, kernel: int, rate: int) -> nn.Module:
        return nn.ConvTranspose1d(inputs, outputs, kernel, rate, padding=(kernel - rate) // 2)

    def _downsample(self, inputs: int, outputs: int, rate: int) -> nn.Module:
        return nn.Conv1d(inputs, outputs, 2 * rate if rate > 1 else 1, rate, padding=rate // 2)

    def _check(self, config: HiFTConfig) -> None:
        super()._check(config)
        check_symmetry(config)

    @torch.no_grad()
    def inference(
        self,
        mel: Tensor,
        noise: Tensor,
        initial_phase: Tensor | None = None,
        cache_source: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Samples [batch, frames * hop] of `mel` [batch, in_channels, frames], and their source [batch, 1, samples].

        Args:
            mel: of a whole utterance, or of a chunk behind the last frames of the one before.
            noise: [batch or 1, frames * hop, nb_harmonics + 1], standard normal.
            initial_phase: of the harmonics, [batch or 1, nb_harmonics + 1] in radians, zero by default.
            cache_source: [batch, 1, samples] takes the place of the first samples of the source.

        Raises `GenerationError` if there are no frames, the mel has another shape, or the source to be put in is
        longer than the mel.
        """
        self._check_mel(mel, 1)
        source = self.m_source(self.predict_f0(mel).float(), noise, initial_phase)
        if cache_source is not None:
            count = cache_source.shape[2]
            if count > source.shape[2]:
                raise GenerationError(
                    f"the source to be continued has {count} samples and the mel is {source.shape[2]} long; "
                    "put the frames that it belongs to in front of the mel"
                )
            source[:, :, :count] = cache_source
        return self.decode(mel, source), source


def check_symmetry(config: HiFTConfig) -> None:
    """Raise `ConfigError` where transposed convolutions of `config` would not give `rate` samples a frame."""
    for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
        if kernel < rate or (kernel - rate) % 2:
            raise ConfigError(
                f"hift.upsample_kernel_sizes holds {kernel} for a rate of {rate}; a vocoder that is not causal needs "
                "kernels that exceed their rates by an even number"
            )


def _check_lengths(config: HiFTConfig) -> None:
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
