"""Parity of the vocoder: F0, source, decoder and chunks (`vN_hift`), its adversarial training (`vN_gan`), and
the fixed random buffers at the released dimensions (`v3_official_rng`).

The random numbers of a causal vocoder are part of the model. Those of the other are drawn anew in every call, and the
record tells the seed.

The decoder is compared layer by layer with the recorded source put in, so that a difference of F0 cannot hide
one of the layers. A recorded tensor that nothing here reproduces becomes a failing row.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.model import FlowConfig, HiFTConfig, ModelConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.hifigan.discriminator import MultipleDiscriminator
from cosyvoice.hifigan.generator import CausalHiFTGenerator, HiFT, HiFTGenerator
from cosyvoice.hifigan.losses import GANWeights, discriminator_loss, generator_loss
from cosyvoice.hifigan.mel_spectrogram import MelSpectrogram
from cosyvoice.hifigan.noise import BUFFER_SAMPLES, ReleasedNoise
from cosyvoice.parity.drawn_noise import Draws, draw, recorded_seed, without_fundamental
from cosyvoice.parity.golden import F0_TOLERANCE, TOLERANCE, ParityFolder, Row, Topic
from cosyvoice.parity.report import Report
from cosyvoice.reference.networks import build_hift

HIFT_INPUTS = frozenset({"mel", "decode.source", "cache.cache_source", "source_test.f0"})
GAN_INPUTS = frozenset({"batch.speech_feat", "batch.speech", "batch.pitch_feat"})

Result = tuple[str, Any, float]
"""Name of a recorded tensor, our value, tolerance."""


@dataclass(frozen=True)
class Vocoder:
    """A loaded vocoder with what its checks need of the rest of its model."""

    generator: HiFT
    config: ModelConfig

    @property
    def fixed_noise(self) -> ReleasedNoise:
        """The random numbers of a causal vocoder."""
        return ReleasedNoise(self.config.flow, self.config.hift)

    def drawn(self, topic: Topic, tensor: str, batch: int, frames: int) -> Draws:
        """The random numbers of the call that made the recorded `tensor` from `frames` mel frames."""
        return draw(self.config.hift, recorded_seed(topic, tensor), batch, frames * self.generator.hop)


def load_vocoder(folder: ParityFolder, generation: str = "v3") -> Vocoder:
    """The vocoder of a released model directory, ready for inference; its names must fit one to one."""
    directory = folder.model_dir(generation)
    config = read_model_config(directory)
    generator = build_hift(config)
    generator.load_state_dict(load_state_dict(directory / "hift.pt"), strict=True)
    return Vocoder(generator.eval(), config)


def check(folder: ParityFolder, generation: str = "v3") -> Iterator[Row]:
    """Rows of every recorded tensor of the vocoder's topics, as far as the folder has them."""
    checks: dict[str, tuple[Callable[[Topic, Vocoder], Iterator[Result]], frozenset[str]]] = {
        f"{generation}_hift": (_hift, HIFT_INPUTS),
        f"{generation}_gan": (_gan, GAN_INPUTS),
    }
    present = [name for name in checks if folder.has(name)]
    if present:
        vocoder = load_vocoder(folder, generation)
    for name in present:
        results, inputs = checks[name]
        topic = folder.topic(name)
        yield from _rows(topic, results(topic, vocoder), inputs)
    if folder.has(f"{generation}_official_rng"):
        topic = folder.topic(f"{generation}_official_rng")
        yield from _rows(topic, _official_rng(topic), frozenset())


def _rows(topic: Topic, results: Iterator[Result], inputs: frozenset[str]) -> Iterator[Row]:
    report = Report(topic, inputs=set(inputs))
    _take(report, results)
    yield from report.finish()


def _take(report: Report, results: Iterator[Result]) -> None:
    # Complete before the first row goes out, or the caller would go on with gradients switched off.
    with torch.no_grad():
        for name, ours, tolerance in results:
            report.compare(name, ours, tolerance)


def fill(report: Report, vocoder: Vocoder) -> None:
    """Compare everything that a topic `vN_hift` tells of."""
    report.inputs |= HIFT_INPUTS
    _take(report, _hift(report.topic, vocoder))


def _hift(topic: Topic, vocoder: Vocoder) -> Iterator[Result]:
    generator = vocoder.generator
    if isinstance(generator, CausalHiFTGenerator):
        yield from _growing(topic, generator, vocoder.fixed_noise)
    elif isinstance(generator, HiFTGenerator):
        yield from _whole(topic, generator, vocoder)
    if "decode.source" in topic:
        yield from _decode(topic, vocoder)


def _growing(topic: Topic, generator: CausalHiFTGenerator, noise: ReleasedNoise) -> Iterator[Result]:
    """What is recorded of a causal vocoder only."""
    mel = torch.from_numpy(topic["mel"])
    f0 = generator.predict_f0(mel)
    yield "rand_ini", noise.initial_phase, 0.0
    yield "sine_noise", noise(f0.shape[1] * generator.hop), 0.0
    yield "f0", f0, F0_TOLERANCE
    yield "f0_nofinal", generator.predict_f0(mel, finalize=False), F0_TOLERANCE
    yield "source", generator.source(f0, noise), F0_TOLERANCE
    yield "wav", generator.inference(mel, noise), F0_TOLERANCE
    if "source_test.sine" in topic:
        samples = topic["source_test.sine"].shape[1]
        head = f0[:, : samples // generator.hop].float()
        yield "source_test.sine", generator.m_source.sines(head, noise(samples)), F0_TOLERANCE
    for name in topic.tensors:
        if match := re.fullmatch(r"chunk(\d+)\.wav", name):
            chunk = generator.inference(mel[:, :, : int(match[1])], noise, finalize=False)
            yield name, chunk, F0_TOLERANCE


def _whole(topic: Topic, generator: HiFTGenerator, vocoder: Vocoder) -> Iterator[Result]:
    """What is recorded of the other vocoder only."""
    mel = torch.from_numpy(topic["mel"])
    batch, _, frames = mel.shape
    yield "f0", generator.predict_f0(mel), F0_TOLERANCE
    draws = vocoder.drawn(topic, "source", batch, frames)
    samples, source = generator.inference(mel, draws.noise, draws.phases)
    yield "source", source, F0_TOLERANCE
    yield "wav", samples, F0_TOLERANCE
    if "cache.cache_source" in topic:
        draws = vocoder.drawn(topic, "cache.source", batch, frames)
        cached = torch.from_numpy(topic["cache.cache_source"])
        samples, source = generator.inference(mel, draws.noise, draws.phases, cached)
        yield "cache.source", source, F0_TOLERANCE
        yield "cache.wav", samples, F0_TOLERANCE
    if "source_test.f0" in topic:
        yield from _source_test(topic, generator, vocoder)


def _source_test(topic: Topic, generator: HiFTGenerator, vocoder: Vocoder) -> Iterator[Result]:
    f0 = torch.from_numpy(topic["source_test.f0"])
    draws = vocoder.drawn(topic, "source_test.sine_noise", *f0.shape)
    sample_wise = vocoder.config.hift.source_phase == "sample"
    noise = draws.noise.transpose(1, 2) if sample_wise else draws.noise
    yield "source_test.phase_u01", draws.uniform[:, :, None], 0.0
    yield "source_test.rand_ini", without_fundamental(draws.uniform), 0.0
    # Another build of PyTorch rounds normal numbers differently.
    yield "source_test.sine_noise", noise, TOLERANCE
    yield "source_test.uv_noise", draws.unused, TOLERANCE
    yield "source_test.uv", generator.m_source.voiced(f0), 0.0
    yield "source_test.source", generator.m_source(f0, draws.noise, draws.phases), TOLERANCE


def _decode(topic: Topic, vocoder: Vocoder) -> Iterator[Result]:
    generator = vocoder.generator
    source = torch.from_numpy(topic["decode.source"])
    mel = torch.from_numpy(topic["mel"])[:, :, : source.shape[2] // generator.hop]
    outputs: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def record(_: nn.Module, __: Any, output: Tensor) -> None:
            outputs[name] = output

        return record

    recorded = {name.removeprefix("decode.") for name in topic.tensors if name.startswith("decode.")}
    modules = {name: module for name, module in generator.named_modules() if name in recorded}
    handles = [module.register_forward_hook(recorder(name)) for name, module in modules.items()]
    try:
        yield "decode.wav", generator.decode(mel, source), TOLERANCE
    finally:
        for handle in handles:
            handle.remove()
    real, imaginary = generator.source_spectrum(source).chunk(2, dim=1)
    yield "decode.stft_real", real, TOLERANCE
    yield "decode.stft_imag", imaginary, TOLERANCE
    for name, output in outputs.items():
        yield f"decode.{name}", output, TOLERANCE


def _gan(topic: Topic, vocoder: Vocoder) -> Iterator[Result]:
    generator = vocoder.generator
    mel = torch.from_numpy(topic["batch.speech_feat"]).transpose(1, 2)
    batch, _, frames = mel.shape
    if generator.config.causal:
        noise, phases = vocoder.fixed_noise(frames * generator.hop), None
    else:
        draws = vocoder.drawn(topic, "source", batch, frames)
        noise, phases = draws.noise, draws.phases
    yield "generated_f0", generator.f0_predictor(mel), F0_TOLERANCE
    # From here on what was recorded goes in, so that differences do not add up.
    f0 = torch.from_numpy(topic["generated_f0"])
    yield "source", generator.m_source(f0, noise, phases), F0_TOLERANCE
    yield "generated_speech", generator(mel, f0, noise, phases), F0_TOLERANCE
    real_speech, fake_speech = (torch.from_numpy(topic[name]) for name in ("batch.speech", "generated_speech"))
    discriminator = _recorded_discriminator(int(topic.meta["set_seed"]))
    real, fake = discriminator(real_speech), discriminator(fake_speech)
    for index, (verdict, fake_verdict) in enumerate(zip(real, fake, strict=True)):
        yield f"d{index}.real", verdict.score, TOLERANCE
        yield f"d{index}.fake", fake_verdict.score, TOLERANCE
        statistics = [torch.stack([x.mean(), x.abs().mean(), x.std()]) for x in verdict.features]
        yield f"d{index}.fmap_stats_real", torch.stack(statistics), TOLERANCE
        yield f"d{index}.fmap_shapes", np.array([x.shape for x in verdict.features]), 0.0
    # The relative loss jumps when the median's rounding changes, so it is judged from the recorded scores.
    real = [v._replace(score=torch.from_numpy(topic[f"d{i}.real"])) for i, v in enumerate(real)]
    fake = [v._replace(score=torch.from_numpy(topic[f"d{i}.fake"])) for i, v in enumerate(fake)]
    # The mel loss reaches up to half the sample rate in every generation, whatever the model's own mel does.
    transform = MelSpectrogram(vocoder.config.mel.model_copy(update={"fmax": None}))
    real_mel, fake_mel = transform(real_speech), transform(fake_speech)
    yield "mel_real", real_mel, TOLERANCE
    yield "mel_fake", fake_mel, TOLERANCE

    recorded = topic.meta["options"]["weights"]
    weights = GANWeights(
        mel=recorded["multi_mel_spectral_recon_loss_weight"],
        feature_match=recorded["feat_match_loss_weight"],
        tpr=recorded["tpr_loss_weight"],
        tpr_tau=recorded["tpr_loss_tau"],
    )
    pitch = torch.from_numpy(topic["batch.pitch_feat"])
    turn = generator_loss(real, fake, real_mel, fake_mel, pitch, f0, weights)
    turn_d = discriminator_loss(real, fake, weights)
    losses = {
        "generator.loss": turn.total,
        "generator.loss_gen": turn.adversarial,
        "generator.loss_fm": turn.feature_match,
        "generator.loss_mel": turn.mel,
        "generator.loss_tpr": turn.tpr,
        "generator.loss_f0": turn.f0,
        "discriminator.loss": turn_d.total,
        "discriminator.loss_disc": turn_d.adversarial,
        "discriminator.loss_tpr": turn_d.tpr,
    }
    for name, loss in losses.items():
        # Sums of many terms: the tolerance is relative.
        yield name, loss, TOLERANCE * max(1.0, abs(loss.item()))


def _recorded_discriminator(seed: int) -> MultipleDiscriminator:
    """The discriminators with the weights of the recording, which are drawn from the names of the layers."""
    discriminator = MultipleDiscriminator()
    for path, module in discriminator.named_modules():
        if isinstance(module, nn.Conv2d):
            shape = tuple(module.weight.shape)
            scale = 1.2 / np.sqrt(np.prod(shape[1:]))
            module.weight = torch.from_numpy(_named_draw(f"{path}.weight", shape, scale, seed))
            module.bias = nn.Parameter(torch.from_numpy(_named_draw(f"{path}.bias", shape[:1], 0.05, seed)))
    return discriminator.eval()


def _named_draw(name: str, shape: tuple[int, ...], scale: float, seed: int) -> np.ndarray:
    key = (zlib.crc32(name.encode()) + 7919 * seed) & 0xFFFFFFFF
    # The recording used NumPy's legacy generator.
    values = np.random.RandomState(key).standard_normal(shape)
    return (values * scale).astype(np.float32)


def _official_rng(topic: Topic) -> Iterator[Result]:
    # The defaults of the configuration are the released dimensions.
    noise = ReleasedNoise(FlowConfig(), HiFTConfig())
    flow_noise = noise.flow_noise()
    yield "rand_noise_head", flow_noise[:, :, : topic["rand_noise_head"].shape[2]], 0.0
    yield "rand_noise_tail", flow_noise[:, :, -topic["rand_noise_tail"].shape[2] :], 0.0
    yield "rand_ini", noise.initial_phase, 0.0
    yield "sine_noise_head", noise(topic["sine_noise_head"].shape[1]), 0.0
    count = topic["sine_noise_tail"].shape[1]
    yield "sine_noise_tail", noise(count, start=BUFFER_SAMPLES - count), 0.0
