"""The three ways a phase moves, and the mixture of harmonics and noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cosyvoice.hifigan.source import HarmonicSource, frame_phase, sample_phase

RATE, HOP = 24000, 480


def test_sample_phase_is_a_true_sine() -> None:
    phase = sample_phase(torch.full((1, 50), 100.0), HOP, 3, RATE)
    time = np.arange(1, 50 * HOP + 1) / RATE
    for harmonic in (1, 2, 3):
        ours = torch.sin(2 * math.pi * phase[0, :, harmonic - 1]).numpy()
        assert np.abs(ours - np.sin(2 * np.pi * 100.0 * harmonic * time)).max() < 1e-4


def test_sample_phase_of_a_long_utterance_agrees_with_double_precision() -> None:
    f0 = torch.rand(1, 1500, generator=torch.Generator().manual_seed(0)) * 300
    phase = sample_phase(f0, HOP, 9, RATE)[0, :, 8]
    exact = np.cumsum(np.repeat(f0[0].double().numpy(), HOP) * 9 / RATE)
    distance = np.abs(np.exp(2j * np.pi * phase.double().numpy()) - np.exp(2j * np.pi * exact))
    assert distance.max() < 1e-4


def test_sample_phase_stands_still_without_pitch() -> None:
    phase = sample_phase(torch.tensor([[120.0, 0.0, 120.0]]), HOP, 1, RATE)[0, :, 0]
    assert torch.all(phase[HOP : 2 * HOP] == phase[HOP - 1])


def test_frame_phase_is_held_or_interpolated() -> None:
    f0 = torch.tensor([[100.0, 130.0, 90.0, 0.0]])
    held = frame_phase(f0, HOP, 2, RATE, linear=False)[0].reshape(4, HOP, 2)
    assert torch.all(held == held[:, :1])
    steps = torch.cumsum(f0[0] / RATE, 0) * 2 * math.pi * HOP
    torch.testing.assert_close(held[:, 0, 0], steps)
    torch.testing.assert_close(held[:, 0, 1], 2 * steps)
    moved = frame_phase(f0, HOP, 2, RATE, linear=True)[0, :, 0]
    middle = HOP // 2
    torch.testing.assert_close(moved[HOP + middle], (steps[1] + (steps[2] - steps[1]) / (2 * HOP)))


def test_voiced_and_unvoiced_levels() -> None:
    source = HarmonicSource(RATE, HOP, 2, alpha=0.1, sigma=0.003, voiced_threshold=10.0, phase="sample")
    f0 = torch.tensor([[200.0, 5.0]])
    silent = source.sines(f0, torch.zeros(1, 2 * HOP, 3))
    assert float(silent[0, :HOP].max()) == pytest.approx(0.1, abs=1e-4)
    assert torch.all(silent[0, HOP:] == 0)
    noise = source.sines(f0, torch.ones(1, 2 * HOP, 3)) - silent
    torch.testing.assert_close(noise[0, :HOP], torch.full((HOP, 3), 0.003), atol=1e-7, rtol=0)
    torch.testing.assert_close(noise[0, HOP:], torch.full((HOP, 3), 0.1 / 3))


def test_a_prefix_does_not_depend_on_what_follows() -> None:
    f0 = torch.rand(1, 12) * 300
    noise = torch.randn(1, 12 * HOP, 9)
    for phase in ("sample", "frame"):
        source = HarmonicSource(RATE, HOP, phase=phase)
        whole = source(f0, noise)
        assert torch.equal(source(f0[:, :7], noise[:, : 7 * HOP]), whole[:, :, : 7 * HOP])


def test_initial_phase_shifts_every_harmonic() -> None:
    source = HarmonicSource(RATE, HOP, 1, phase="sample")
    f0, noise = torch.full((1, 2), 50.0), torch.zeros(1, 2 * HOP, 2)
    shifted = source.sines(f0, noise, torch.tensor([[math.pi, 0.0]]))
    plain = source.sines(f0, noise)
    torch.testing.assert_close(shifted[..., 0], -plain[..., 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(shifted[..., 1], plain[..., 1])


def test_source_stays_in_float32_under_autocast() -> None:
    source = HarmonicSource(RATE, HOP)
    f0, noise = torch.rand(1, 3) * 300, torch.randn(1, 3 * HOP, 9)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = source(f0, noise)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, source(f0, noise))
