"""The log-mel of flow and vocoder in PyTorch, so that gradients pass through it to the samples.

The arithmetic is that of `cosyvoice.audio.mel.LogMel`, which is the NumPy twin for inference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.audio.mel import mel_filterbank
from cosyvoice.config.model import MelConfig

MAGNITUDE_FLOOR = 1e-9
LOG_FLOOR = 1e-5


class MelSpectrogram(nn.Module):
    """log(max(M sqrt(re² + im² + 1e-9), 1e-5)) with Slaney filters M; holds no trained weights."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        filters = mel_filterbank(config.sample_rate, config.n_fft, config.n_mels, config.fmin, config.fmax)
        self.register_buffer("window", torch.hann_window(config.win_size), persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """Log-mel [batch, n_mels, time // hop_size] of `samples` [batch, time]; always float32."""
        config = self.config
        pad = (config.n_fft - config.hop_size) // 2
        with torch.autocast(samples.device.type, enabled=False):
            padded = F.pad(samples.float()[:, None], (pad, pad), mode="reflect").squeeze(1)
            spectrum = torch.stft(
                padded,
                config.n_fft,
                config.hop_size,
                config.win_size,
                self.window,
                center=False,
                return_complex=True,
            )
            # The floor is inside the root, so that the gradient at silence is finite.
            magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + MAGNITUDE_FLOOR)
            return torch.log(torch.clamp(self.filters @ magnitude, min=LOG_FLOOR))
