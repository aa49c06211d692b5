"""The vocoder as a whole: chunks, training, autocast, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cosyvoice.config.model import HiFTConfig
from cosyvoice.errors import ConfigError, GenerationError
from cosyvoice.hifigan.generator import CausalHiFTGenerator
from cosyvoice.hifigan.noise import PeriodicNoise

NOISE = PeriodicNoise(9, period=4096)


def build(**changes: Any) -> CausalHiFTGenerator:
    torch.manual_seed(0)
    generator = CausalHiFTGenerator(HiFTConfig(base_channels=16, f0_channels=8, **changes))
    with torch.no_grad():
        # Frequencies of speech, some frames of it unvoiced.
        generator.f0_predictor.classifier.weight.mul_(2000)
    return generator.eval()


def mel_of(frames: int) -> torch.Tensor:
    return torch.randn(1, 80, frames, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("phase", ["frame", "sample"])
@pytest.mark.parametrize("double", [True, False])
def test_chunks_repeat_the_whole_utterance(phase: str, double: bool) -> None:
    generator = build(source_phase=phase, f0_in_float64=double)
    mel = mel_of(30)
    whole = generator.inference(mel, NOISE)
    assert whole.shape == (1, 30 * 480)
    for frames in (9, 14, 29):
        part = generator.inference(mel[:, :, :frames], NOISE, finalize=False)
        assert part.shape[1] == generator.chunk_samples(frames) == (frames - 8) * 480
        # The phase takes F0 in single precision up over the frames.
        assert float((part - whole[:, : part.shape[1]]).abs().max()) < (1e-5 if double else 1e-3)


def test_other_rates_and_more_look_ahead() -> None:
    generator = build(
        upsample_rates=(4, 5),
        upsample_kernel_sizes=(8, 11),
        source_resblock_kernel_sizes=(7, 11),
        source_resblock_dilation_sizes=((1, 3), (1,)),
        resblock_kernel_sizes=(3, 5),
        resblock_dilation_sizes=((1, 2), (1, 3)),
        conv_pre_look_right=2,
    )
    assert generator.hop == 80
    mel = mel_of(20)
    whole = generator.inference(mel, NOISE)
    part = generator.inference(mel[:, :, :15], NOISE, finalize=False)
    assert whole.shape == (1, 20 * 80)
    assert part.shape == (1, 9 * 80)
    torch.testing.assert_close(part, whole[:, : part.shape[1]], atol=1e-5, rtol=0)


def test_f0_is_predicted_from_the_normalised_mel() -> None:
    plain, shifted = build(), build(mel_mean=-5.0, mel_std=2.0)
    mel = mel_of(12)
    torch.testing.assert_close(shifted.predict_f0(mel * 2 - 5), plain.predict_f0(mel), atol=1e-3, rtol=0)
    source = torch.rand(1, 1, 12 * 480) - 0.5
    assert torch.equal(shifted.decode(mel, source), plain.decode(mel, source))


def test_training_reaches_every_weight_but_those_of_f0() -> None:
    generator = build().train()
    mel, f0 = mel_of(6).repeat(2, 1, 1), torch.tensor([[0.0, 100, 110, 120, 130, 0]]).repeat(2, 1)
    noise = generator.training_noise(2, 6, torch.Generator().manual_seed(0))
    samples = generator(mel, f0, noise)
    assert samples.shape == (2, 6 * 480)
    samples.square().mean().backward()
    for name, parameter in generator.named_parameters():
        expected = not name.startswith("f0_predictor")
        assert (parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)) == expected, name


def test_autocast_changes_little() -> None:
    generator = build()
    mel, f0 = mel_of(6), torch.full((1, 6), 120.0)
    noise = generator.training_noise(1, 6, torch.Generator().manual_seed(0))
    with torch.no_grad():
        single = generator(mel, f0, noise)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = generator(mel, f0, noise)
    assert mixed.dtype == torch.float32
    assert float((mixed - single).abs().max()) < 0.05 * float(single.abs().max())


def test_folding_weight_norm_keeps_the_speech() -> None:
    generator = build()
    before = generator.inference(mel_of(10), NOISE)
    generator.remove_weight_norm()
    kept = {name.split(".")[0] for name in generator.state_dict() if "parametrizations" in name}
    assert kept == {"f0_predictor"}  # it runs in float64, where a folded float32 weight would be off
    torch.testing.assert_close(generator.inference(mel_of(10), NOISE), before, atol=1e-5, rtol=0)


def test_names_of_the_released_weights() -> None:
    shapes = {name: tuple(value.shape) for name, value in CausalHiFTGenerator(HiFTConfig()).state_dict().items()}
    assert len(shapes) == 328
    assert shapes["conv_pre.parametrizations.weight.original1"] == (512, 80, 5)
    assert shapes["ups.1.parametrizations.weight.original1"] == (128, 256, 11)
    assert shapes["ups.1.parametrizations.weight.original0"] == (128, 1, 1)
    assert shapes["source_downs.0.weight"] == (256, 18, 30)
    assert shapes["resblocks.8.activations2.2.alpha"] == (64,)
    assert shapes["f0_predictor.condnet.0.parametrizations.weight.original1"] == (512, 80, 4)
    assert shapes["m_source.l_linear.weight"] == (1, 9)


def test_too_few_frames_are_refused() -> None:
    generator = build()
    with pytest.raises(GenerationError, match="8 mel frames and needs 9"):
        generator.inference(mel_of(8), NOISE, finalize=False)
    with pytest.raises(GenerationError, match="0 mel frames"):
        generator.inference(mel_of(8)[:, :, :0], NOISE)


def test_a_transposed_mel_is_refused() -> None:
    with pytest.raises(GenerationError, match="transpose"):
        build().inference(mel_of(12).transpose(1, 2), NOISE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upsample_kernel_sizes": (16, 11)}, "upsample_kernel_sizes has 2 entries and needs 3"),
        ({"resblock_dilation_sizes": ((1,),)}, "resblock_dilation_sizes has 1 entries and needs 3"),
        ({"base_channels": 20}, "multiple of 8"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CausalHiFTGenerator(HiFTConfig(**({"base_channels": 16, "f0_channels": 8} | changes)))
