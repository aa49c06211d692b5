"""Shapes and independence of the discriminators."""

from __future__ import annotations

import torch

from cosyvoice.hifigan.discriminator import MultipleDiscriminator, PeriodDiscriminator, SpectrumDiscriminator


def small() -> MultipleDiscriminator:
    return MultipleDiscriminator((2, 3), (4, 8, 8), ((64, 16, 32),), spectrum_channels=4)


def test_one_verdict_a_discriminator() -> None:
    verdicts = small()(torch.randn(2, 1001))
    assert len(verdicts) == 3
    for verdict in verdicts:
        assert verdict.score.shape[0] == 2
        assert torch.equal(verdict.features[-1].flatten(1), verdict.score)


def test_a_batch_is_judged_item_by_item() -> None:
    discriminator, samples = small(), torch.randn(3, 1000)
    together = discriminator(samples)
    alone = discriminator(samples[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.score[1:2], b.score, atol=1e-5, rtol=1e-5)


def test_a_period_never_mixes_its_columns() -> None:
    discriminator = PeriodDiscriminator(5, (4, 4))
    samples = torch.randn(1, 200, requires_grad=True)
    discriminator(samples).features[-1][0, 0, :, 2].sum().backward()
    assert samples.grad is not None
    assert set((samples.grad[0].nonzero().flatten() % 5).tolist()) == {2}


def test_released_sizes() -> None:
    discriminator = PeriodDiscriminator(2)
    assert [tuple(conv.weight.shape[:2]) for conv in discriminator.convs] == [
        (32, 1),
        (128, 32),
        (512, 128),
        (1024, 512),
        (1024, 1024),
    ]
    shapes = [x.shape for x in SpectrumDiscriminator(1024, 120, 600)(torch.randn(1, 1200)).features]
    assert [tuple(shape[1:]) for shape in shapes] == [
        (32, 11, 513),
        (32, 11, 257),
        (32, 11, 129),
        (32, 11, 65),
        (32, 11, 65),
        (1, 11, 65),
    ]


def test_the_spectrum_is_single_precision_under_autocast() -> None:
    discriminator = SpectrumDiscriminator(64, 16, 32, channels=4)
    samples = torch.randn(1, 500)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = discriminator(samples).score.float()
    single = discriminator(samples).score.detach()
    assert float((mixed - single).abs().max()) < 0.1 * float(single.abs().max())
