"""The excitation of the vocoder: harmonics of F0 and noise in one signal (neural source-filter model).

The generations differ only in how the phase of a harmonic moves between frames, the argument `phase`:

- "sample" adds F0 up sample by sample, so every harmonic is a true sine;
- "linear" knows the phase once a frame and interpolates it;
- "frame" knows the phase once a frame and holds it, so that every harmonic is a staircase. That is a slip
  of the released V3, but its weights were trained with it.

The noise comes from the caller (`cosyvoice.hifigan.noise`), so the module holds no random state.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Phase = Literal["sample", "linear", "frame"]


def sample_phase(f0: Tensor, hop: int, harmonics: int, sampling_rate: int) -> Tensor:
    """Phase of every harmonic in cycles, [batch, frames * hop, harmonics] in [0, harmonics), float32.

    `f0` [batch, frames] in Hz is constant within a frame. The sum over the utterance is float64: after ten
    seconds a float32 sum would be off by audible fractions of a cycle.
    """
    step = f0.double() / sampling_rate
    before = torch.cumsum(step * hop, dim=1) - step * hop
    within = torch.arange(1, hop + 1, dtype=torch.float64, device=f0.device)
    cycles = (before[:, :, None] + step[:, :, None] * within).flatten(1)
    # A whole number of cycles of the fundamental is a whole number of every harmonic, so this order is exact.
    return torch.remainder(cycles, 1.0).float()[:, :, None] * _numbers(harmonics, f0)


def frame_phase(f0: Tensor, hop: int, harmonics: int, sampling_rate: int, linear: bool) -> Tensor:
    """Phase of every harmonic in radians, [batch, frames * hop, harmonics], known once a frame.

    Held between frames, or interpolated if `linear`. The order of the float32 operations is the released
    implementation's, because the rounding of a long sum is visible in its output.
    """
    step = torch.remainder(f0.float()[:, :, None] * _numbers(harmonics, f0) / sampling_rate, 1.0)
    phase = (torch.cumsum(step, dim=1) * 2 * math.pi).transpose(1, 2) * hop
    mode = "linear" if linear else "nearest"
    return F.interpolate(phase, scale_factor=float(hop), mode=mode).transpose(1, 2)


def _numbers(harmonics: int, like: Tensor) -> Tensor:
    return torch.arange(1, harmonics + 1, dtype=torch.float32, device=like.device)


class HarmonicSource(nn.Module):
    """Sines at the multiples of F0 where the speech is voiced, noise everywhere, and their learned mixture.

    Args:
        sampling_rate: Hz of the output.
        hop: samples of a frame of F0.
        nb_harmonics: overtones above the fundamental.
        alpha: amplitude of a sine.
        sigma: standard deviation of the noise under a voiced sample (unvoiced samples get alpha / 3).
        voiced_threshold: Hz above which a frame counts as voiced.
        phase: see the module's description.
    """

    def __init__(
        self,
        sampling_rate: int,
        hop: int,
        nb_harmonics: int = 8,
        alpha: float = 0.1,
        sigma: float = 0.003,
        voiced_threshold: float = 10.0,
        phase: Phase = "frame",
    ) -> None:
        super().__init__()
        self.sampling_rate = sampling_rate
        self.hop = hop
        self.channels = nb_harmonics + 1
        self.alpha = alpha
        self.sigma = sigma
        self.voiced_threshold = voiced_threshold
        self.phase = phase
        self.l_linear = nn.Linear(self.channels, 1)

    def voiced(self, f0: Tensor) -> Tensor:
        """1 under every sample of a voiced frame and 0 elsewhere, [batch, samples, 1], for `f0` [batch, frames]."""
        return (f0 > self.voiced_threshold).float().repeat_interleave(self.hop, dim=1)[:, :, None]

    @torch.no_grad()
    def sines(self, f0: Tensor, noise: Tensor, initial_phase: Tensor | None = None) -> Tensor:
        """The unmixed channels [batch, samples, channels] for `f0` [batch, frames] (Hz).

        `noise` [batch or 1, samples, channels] has unit scale; `initial_phase` [batch, channels] is in
        radians and zero by default.
        """
        if self.phase == "sample":
            phase = sample_phase(f0, self.hop, self.channels, self.sampling_rate) * (2 * math.pi)
        else:
            linear = self.phase == "linear"
            phase = frame_phase(f0, self.hop, self.channels, self.sampling_rate, linear)
        if initial_phase is not None:
            phase = phase + initial_phase[:, None, :]
        voiced = self.voiced(f0)
        level = voiced * self.sigma + (1.0 - voiced) * (self.alpha / 3)
        return torch.sin(phase) * (self.alpha * voiced) + noise * level

    def forward(self, f0: Tensor, noise: Tensor, initial_phase: Tensor | None = None) -> Tensor:
        """The source signal [batch, 1, samples] in (-1, 1), always float32; arguments as `sines`."""
        sines = self.sines(f0, noise, initial_phase)
        with torch.autocast(f0.device.type, enabled=False):
            return torch.tanh(self.l_linear(sines)).transpose(1, 2)
