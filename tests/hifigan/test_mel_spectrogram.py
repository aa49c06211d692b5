"""The mel in PyTorch and its NumPy twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cosyvoice.audio.mel import LogMel
from cosyvoice.config.model import MelConfig
from cosyvoice.hifigan.mel_spectrogram import MelSpectrogram


@pytest.mark.parametrize(
    "config",
    [MelConfig(), MelConfig(sample_rate=22050, n_fft=1024, hop_size=256, win_size=1024, fmax=8000.0)],
)
def test_agrees_with_the_numpy_twin(config: MelConfig) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 12 * config.hop_size).astype(np.float32)
    ours = MelSpectrogram(config)(torch.from_numpy(samples)[None])[0].T
    assert ours.shape == (12, 80)
    assert np.abs(ours.numpy() - LogMel(config)(samples)).max() < 1e-4


def test_the_gradient_at_silence_is_finite() -> None:
    samples = torch.zeros(1, 9600, requires_grad=True)
    MelSpectrogram(MelConfig())(samples).sum().backward()
    assert samples.grad is not None and torch.isfinite(samples.grad).all()
