"""Both transforms of the vocoder."""

from __future__ import annotations

import math

import torch

from cosyvoice.hifigan.spectrum import MAX_MAGNITUDE, inverse_spectrum, source_spectrum


def test_the_inverse_undoes_the_transform() -> None:
    samples = torch.rand(2, 80) - 0.5
    spectrum = source_spectrum(samples, 16, 4)
    assert spectrum.shape == (2, 18, 21)
    real, imaginary = spectrum.chunk(2, dim=1)
    complex_spectrum = torch.complex(real, imaginary)
    # Only phases within one radian can be said as a sine, so a half turn goes into a second signal.
    turned = complex_spectrum.real < 0
    phase = torch.where(turned, -complex_spectrum, complex_spectrum).angle()
    amplitude = complex_spectrum.abs()
    limited = phase.clamp(-1, 1)
    head = torch.cat([torch.log(amplitude + 1e-12), torch.asin(limited)], dim=1)
    expected = torch.istft(torch.polar(amplitude, limited), 16, 4, window=torch.hann_window(16))
    torch.testing.assert_close(inverse_spectrum(head, 16, 4), expected, atol=1e-4, rtol=0)


def test_a_free_phase_says_every_spectrum() -> None:
    samples = torch.rand(2, 480) - 0.5
    real, imaginary = source_spectrum(samples, 96, 24).chunk(2, dim=1)
    spectrum = torch.complex(real, imaginary)
    head = torch.cat([torch.log(spectrum.abs() + 1e-12), spectrum.angle()], dim=1)
    torch.testing.assert_close(inverse_spectrum(head, 96, 24, free_phase=True), samples, atol=1e-4, rtol=0)
    assert not torch.allclose(inverse_spectrum(head, 96, 24), samples, atol=1e-2)


def test_magnitudes_are_limited() -> None:
    loud = torch.full((1, 18, 9), 50.0)
    limit = loud.clone()
    limit[:, :9] = math.log(MAX_MAGNITUDE)
    assert torch.isfinite(inverse_spectrum(loud, 16, 4)).all()
    torch.testing.assert_close(inverse_spectrum(loud, 16, 4), inverse_spectrum(limit, 16, 4))
