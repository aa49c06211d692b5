"""The short Fourier transform at both ends of the vocoder: 16 points, 4 samples apart, in the released models.

Everything here is float32 whatever autocast says: the exponential and the phase would not survive bf16.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_MAGNITUDE = 100.0
"""Magnitudes are clipped here, so that an untrained network cannot overflow."""


def source_spectrum(source: Tensor, n_fft: int, hop: int) -> Tensor:
    """Real over imaginary parts, [batch, n_fft + 2, samples / hop + 1], of `source` [batch, samples]."""
    with torch.autocast(source.device.type, enabled=False):
        source = source.float()
        window = torch.hann_window(n_fft, device=source.device)
        spectrum = torch.stft(source, n_fft, hop, window=window, center=True, return_complex=True)
        return torch.cat([spectrum.real, spectrum.imag], dim=1)


def inverse_spectrum(head: Tensor, n_fft: int, hop: int, free_phase: bool = False) -> Tensor:
    """Samples [batch, (frames - 1) * hop] from the network's output `head` [batch, n_fft + 2, frames].

    The first half of the channels is the logarithm of the magnitude; the sine of the second half is the phase
    in radians (iSTFTNet, Kaneko et al. 2022). With `free_phase` the second half itself is the phase (Vocos,
    Siuzdak 2023): long frames need every angle.
    """
    with torch.autocast(head.device.type, enabled=False):
        log_magnitude, phase = head.float().chunk(2, dim=1)
        magnitude = torch.exp(log_magnitude).clamp(max=MAX_MAGNITUDE)
        spectrum = torch.polar(magnitude, phase if free_phase else torch.sin(phase))
        window = torch.hann_window(n_fft, device=head.device)
        return torch.istft(spectrum, n_fft, hop, window=window, center=True)
