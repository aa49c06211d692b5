"""`load_wav` and `speed_change`, as programs written for the released package know them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cosyvoice.audio.io import read_audio
from cosyvoice.audio.resample import sinc_resample
from cosyvoice.audio.time_stretch import time_stretch
from cosyvoice.errors import AudioError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_wav", "logging", "speed_change"]


def load_wav(wav: str | Path | BinaryIO, target_sr: int, min_sr: int = 16000) -> Tensor:
    """Samples [1, time] of a file at `target_sr` Hz, the mean of its channels.

    Raises `AudioError` for a file that cannot be read, or whose rate is below `min_sr` Hz.
    """
    import torch

    samples, rate = read_audio(wav)
    if rate < min_sr:
        raise AudioError(f"{wav} has {rate} samples a second, at least {min_sr} are needed; give another recording")
    return torch.from_numpy(sinc_resample(samples, rate, target_sr)).float()[None]


def speed_change(waveform: Tensor, sample_rate: int, speed_factor: float | str) -> tuple[Tensor, int]:
    """`waveform` [channels, time] so many times as fast at the same pitch, and its rate in Hz, which stays."""
    import torch

    stretched = [time_stretch(channel.numpy(), sample_rate, float(speed_factor)) for channel in waveform]
    return torch.stack([torch.from_numpy(channel) for channel in stretched]), sample_rate
