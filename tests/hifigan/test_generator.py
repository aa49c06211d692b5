"""The vocoder as a whole: chunks, training, autocast, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cosyvoice.config.model import HiFTConfig
from cosyvoice.errors import ConfigError, GenerationError
from cosyvoice.hifigan.generator import CausalHiFTGenerator, HiFT, HiFTGenerator
from cosyvoice.hifigan.noise import PeriodicNoise

NOISE = PeriodicNoise(9, period=4096)


def build(**changes: Any) -> CausalHiFTGenerator:
    torch.manual_seed(0)
    generator = CausalHiFTGenerator(HiFTConfig(base_channels=16, f0_channels=8, **changes))
    with torch.no_grad():
        # Frequencies of speech, some frames of it unvoiced.
        generator.f0_predictor.classifier.weight.mul_(2000)
    return generator.eval()


def build_symmetric(**changes: Any) -> HiFTGenerator:
    torch.manual_seed(0)
    options: dict[str, Any] = {"base_channels": 16, "f0_channels": 8, "f0_in_float64": False, "source_phase": "linear"}
    return HiFTGenerator(HiFTConfig(causal=False, **(options | changes))).eval()


V1: dict[str, Any] = {
    "sampling_rate": 22050,
    "upsample_rates": (8, 8),
    "upsample_kernel_sizes": (16, 16),
    "source_resblock_kernel_sizes": (7, 11),
    "source_resblock_dilation_sizes": ((1, 3, 5), (1, 3, 5)),
    "source_phase": "sample",
}


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


@pytest.mark.parametrize("generator", [build(), build_symmetric()], ids=["causal", "symmetric"])
def test_training_reaches_every_weight_but_those_of_f0(generator: HiFT) -> None:
    generator.train()
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


def test_names_of_the_released_weights_of_v1_and_v2() -> None:
    released = {"base_channels": 512, "f0_channels": 512}
    v1 = {name: tuple(value.shape) for name, value in build_symmetric(**released, **V1).state_dict().items()}
    v2 = {name: tuple(value.shape) for name, value in build_symmetric(**released).state_dict().items()}
    assert (len(v1), len(v2)) == (227, 328)
    assert v1["conv_pre.parametrizations.weight.original1"] == (512, 80, 7)
    assert v1["ups.1.parametrizations.weight.original1"] == (256, 128, 16)
    # A transposed convolution has one gain for each channel that comes in.
    assert v1["ups.1.parametrizations.weight.original0"] == (256, 1, 1)
    assert v1["source_downs.0.weight"] == (256, 18, 16)
    assert v2["source_downs.0.weight"] == (256, 18, 30)
    assert v2["ups.2.parametrizations.weight.original1"] == (128, 64, 7)
    assert v2["f0_predictor.condnet.0.parametrizations.weight.original1"] == (512, 80, 3)


@pytest.mark.parametrize(("changes", "hop"), [({}, 480), (V1, 256)], ids=["v2", "v1"])
def test_both_sides_are_seen(changes: dict[str, Any], hop: int) -> None:
    generator = build_symmetric(**changes)
    assert generator.hop == hop
    mel = mel_of(60)
    source = torch.rand(1, 1, 60 * hop, generator=torch.Generator().manual_seed(2)) - 0.5
    changed = mel.clone()
    changed[:, :, 30] += 1
    with torch.no_grad():
        difference = (generator.decode(changed, source) - generator.decode(mel, source)).abs()[0].reshape(60, hop)
    reach = torch.nonzero(difference.amax(1) > 0).flatten().tolist()
    assert reach[0] < 28
    assert reach[-1] > 32
    assert 30 - reach[0] <= 20
    assert reach[-1] - 30 <= 20


def test_a_given_source_takes_the_place_of_the_first_samples() -> None:
    generator = build_symmetric()
    mel, noise = mel_of(12), torch.randn(1, 12 * 480, 9)
    cache = torch.rand(1, 1, 3 * 480) - 0.5
    plain, source = generator.inference(mel, noise)
    samples, patched = generator.inference(mel, noise, cache_source=cache)
    assert torch.equal(patched[:, :, : 3 * 480], cache)
    assert torch.equal(patched[:, :, 3 * 480 :], source[:, :, 3 * 480 :])
    assert torch.equal(samples, generator.decode(mel, patched))
    assert not torch.allclose(samples[:, : 2 * 480], plain[:, : 2 * 480], atol=1e-6)
    with pytest.raises(GenerationError, match="5760 long"):
        generator.inference(mel, noise, cache_source=torch.zeros(1, 1, 13 * 480))
    with pytest.raises(GenerationError, match="transpose"):
        generator.inference(mel.transpose(1, 2), noise)
    with pytest.raises(GenerationError, match="0 mel frames"):
        generator.inference(mel[:, :, :0], noise)


def test_initial_phases_move_the_harmonics() -> None:
    generator = build_symmetric(**V1)
    mel, noise = mel_of(8), torch.zeros(1, 8 * 256, 9)
    with torch.no_grad():
        generator.f0_predictor.classifier.weight.mul_(2000)
    _, plain = generator.inference(mel, noise)
    _, moved = generator.inference(mel, noise, torch.linspace(0, 3, 9)[None])
    assert float((plain - moved).abs().max()) > 1e-3


def test_folding_the_weight_norm_of_the_symmetric_vocoder() -> None:
    generator = build_symmetric()
    mel, noise = mel_of(10), torch.randn(1, 10 * 480, 9)
    before, _ = generator.inference(mel, noise)
    generator.remove_weight_norm()
    assert not any("parametrizations" in name for name in generator.state_dict())
    torch.testing.assert_close(generator.inference(mel, noise)[0], before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernels", [(16, 10, 7), (6, 11, 7)])
def test_upsampling_that_does_not_give_whole_frames_is_refused(kernels: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="even number"):
        build_symmetric(upsample_kernel_sizes=kernels)
