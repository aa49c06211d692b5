"""The two families of discriminators that train the vocoder, over periods of samples and over spectrograms.

Both return, besides a score for each patch of the signal, the feature maps of every layer (the scores being
the last), which the generator learns to match.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

PERIODS = (2, 3, 5, 7, 11)
"""Sample periods of HiFi-GAN: primes, so that the grids overlap little."""
PERIOD_CHANNELS = (32, 128, 512, 1024, 1024)
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""(n_fft, hop, window) in samples of the spectrograms, from Parallel WaveGAN."""
SPECTRUM_CHANNELS = 32
SLOPE = 0.1


class Verdict(NamedTuple):
    """What a discriminator says: scores [batch, patches] (1 real, 0 generated) and the maps of each layer."""

    score: Tensor
    features: list[Tensor]


class PeriodDiscriminator(nn.Module):
    """Convolutions over samples that lie `period` apart (HiFi-GAN, Kong et al. 2020, section 2.3)."""

    def __init__(self, period: int, channels: tuple[int, ...] = PERIOD_CHANNELS) -> None:
        super().__init__()
        self.period = period
        widths = (1, *channels)
        # Every layer but the last divides the time by three.
        strides = [3] * (len(channels) - 1) + [1]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(widths[i], widths[i + 1], (5, 1), (stride, 1), padding=(2, 0)))
            for i, stride in enumerate(strides)
        )
        self.conv_post = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, samples: Tensor) -> Verdict:
        """Judge `samples` [batch, time]; the end is filled up to a whole period by reflection."""
        x = F.pad(samples, (0, -samples.shape[1] % self.period), mode="reflect")
        x = x.view(x.shape[0], 1, -1, self.period)
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
            features.append(x)
        score = self.conv_post(x)
        return Verdict(score.flatten(1), [*features, score])


class SpectrumDiscriminator(nn.Module):
    """Convolutions over the magnitudes of one STFT (UnivNet, Jang et al. 2021, section 2.3)."""

    window: Tensor

    def __init__(self, n_fft: int, hop: int, window: int, channels: int = SPECTRUM_CHANNELS) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop = hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        layers = [nn.Conv2d(1, channels, (3, 9), padding=(1, 4))]
        layers += [nn.Conv2d(channels, channels, (3, 9), stride=(1, 2), padding=(1, 4)) for _ in range(3)]
        layers += [nn.Conv2d(channels, channels, (3, 3), padding=(1, 1))]
        self.discriminators = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.out = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, samples: Tensor) -> Verdict:
        """Judge `samples` [batch, time]."""
        x = self._magnitudes(samples).transpose(1, 2).unsqueeze(1)
        features = []
        for conv in self.discriminators:
            x = F.leaky_relu(conv(x), SLOPE)
            features.append(x)
        score = self.out(x)
        return Verdict(score.flatten(1), [*features, score])

    def _magnitudes(self, samples: Tensor) -> Tensor:
        with torch.autocast(samples.device.type, enabled=False):
            window = self.window.float()
            spectrum = torch.stft(
                samples.float(), self.n_fft, self.hop, len(window), window, center=True, return_complex=True
            )
            return spectrum.abs()


class MultiPeriodDiscriminator(nn.Module):
    """One `PeriodDiscriminator` a period."""

    def __init__(self, periods: tuple[int, ...] = PERIODS, channels: tuple[int, ...] = PERIOD_CHANNELS) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(PeriodDiscriminator(period, channels) for period in periods)

    def forward(self, samples: Tensor) -> list[Verdict]:
        """Judge `samples` [batch, time]."""
        return [discriminator(samples) for discriminator in self.discriminators]


class MultiResolutionDiscriminator(nn.Module):
    """One `SpectrumDiscriminator` a resolution (n_fft, hop, window), in samples."""

    def __init__(
        self, resolutions: tuple[tuple[int, int, int], ...] = RESOLUTIONS, channels: int = SPECTRUM_CHANNELS
    ) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            SpectrumDiscriminator(*resolution, channels=channels) for resolution in resolutions
        )

    def forward(self, samples: Tensor) -> list[Verdict]:
        """Judge `samples` [batch, time]."""
        return [discriminator(samples) for discriminator in self.discriminators]


class MultipleDiscriminator(nn.Module):
    """All discriminators, periods first. The defaults are the released sizes (41 M parameters)."""

    def __init__(
        self,
        periods: tuple[int, ...] = PERIODS,
        period_channels: tuple[int, ...] = PERIOD_CHANNELS,
        resolutions: tuple[tuple[int, int, int], ...] = RESOLUTIONS,
        spectrum_channels: int = SPECTRUM_CHANNELS,
    ) -> None:
        super().__init__()
        self.mpd = MultiPeriodDiscriminator(periods, period_channels)
        self.mrd = MultiResolutionDiscriminator(resolutions, spectrum_channels)

    def forward(self, samples: Tensor) -> list[Verdict]:
        """Judge `samples` [batch, time]; real and generated ones may share a batch."""
        return [*self.mpd(samples), *self.mrd(samples)]
