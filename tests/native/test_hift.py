"""The native vocoder that sees both sides against the reference: any geometry, chunks, threads, foreign files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from cosyvoice.config.model import HiFTConfig
from cosyvoice.engine.stages import MelChunk
from cosyvoice.errors import GenerationError, ModelError
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.hift_graph import build_hift
from cosyvoice.export.vocoder_graph import build_vocoder, fold_weight_norm
from cosyvoice.hifigan import generator as generator_module
from cosyvoice.hifigan.generator import CausalHiFTGenerator, HiFT, HiFTGenerator
from cosyvoice.native import hift, vocoder_reach
from cosyvoice.native.hift import NativeHiFT, NativeHiFTStage
from cosyvoice.native.runtime import Runtime
from cosyvoice.native.vocoder_reach import context_frames
from cosyvoice.reference.hift import TorchHiFT, TorchHiFTStage

SMALL: dict[str, Any] = {"causal": False, "base_channels": 16, "f0_channels": 8, "f0_in_float64": False}
V1: dict[str, Any] = {
    "sampling_rate": 22050,
    "upsample_rates": (8, 8),
    "upsample_kernel_sizes": (16, 16),
    "source_resblock_kernel_sizes": (7, 11),
    "source_resblock_dilation_sizes": ((1, 3, 5), (1, 3, 5)),
    "source_phase": "sample",
    "joint_frames": 20,
}
OTHER: dict[str, Any] = {
    "in_channels": 20,
    "nb_harmonics": 3,
    "upsample_rates": (5, 4),
    "upsample_kernel_sizes": (5, 10),
    "istft_n_fft": 20,
    "istft_hop": 8,
    "resblock_kernel_sizes": (3, 5),
    "resblock_dilation_sizes": ((1, 2), (1, 3)),
    "source_resblock_kernel_sizes": (3, 5),
    "source_resblock_dilation_sizes": ((1,), (1, 2)),
    "source_phase": "frame",
    "joint_frames": 3,
    "mel_mean": -5.0,
    "mel_std": 2.0,
}
CONFIGS = {
    "v1": HiFTConfig(**SMALL, **V1),
    "v2": HiFTConfig(**SMALL, source_phase="linear"),
    "other": HiFTConfig(**SMALL, **OTHER),
}
FRAMES = 50


@dataclass(frozen=True)
class Pair:
    """The same weights behind both implementations."""

    config: HiFTConfig
    native: NativeHiFTStage
    reference: TorchHiFTStage
    directory: Path
    mel: np.ndarray


def generator_of(config: HiFTConfig) -> HiFT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = (CausalHiFTGenerator if config.causal else HiFTGenerator)(config).eval()
    with torch.no_grad():
        # Frequencies of speech, some frames of it unvoiced.
        generator.f0_predictor.classifier.weight.mul_(1000)
        for name, value in generator.named_parameters():
            if name.endswith("alpha"):
                value.uniform_(0.2, 3.0, generator=torch.Generator().manual_seed(len(name)))
    return generator


def export(generator: HiFT, directory: Path) -> TensorFile:
    weights = fold_weight_norm({name: value.detach().numpy() for name, value in generator.state_dict().items()})
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, directory / "hift.safetensors")
    return TensorFile(directory / "hift.safetensors")


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config, directory = CONFIGS[request.param], tmp_path_factory.mktemp(request.param)
    generator = generator_of(config)
    assert isinstance(generator, HiFTGenerator)
    build_hift(export(generator, directory), config, directory)
    mel = np.random.default_rng(1).standard_normal((FRAMES, config.in_channels)).astype(np.float32) * 2
    native = NativeHiFTStage(directory, config, Runtime(1))
    return Pair(config, native, TorchHiFTStage(generator, 1), directory, mel)


def speak(stage: Any, mel: np.ndarray, cuts: list[int]) -> np.ndarray:
    state, pieces = stage.init_state(), []
    parts = np.split(mel, np.cumsum(cuts)[:-1])
    for index, part in enumerate(parts):
        samples, state = stage.step(MelChunk(part, index == len(parts) - 1), state)
        pieces.append(samples)
    return np.concatenate(pieces)


def test_every_part_equals_the_reference(pair: Pair) -> None:
    ours, theirs = pair.native.networks, pair.reference.networks
    assert isinstance(ours, NativeHiFT)
    assert isinstance(theirs, TorchHiFT)
    f0 = theirs.predict_f0(pair.mel)
    voiced = f0 > pair.config.nsf_voiced_threshold
    assert voiced.any()
    assert not voiced.all()
    np.testing.assert_allclose(ours.predict_f0(pair.mel), f0, atol=1e-3)
    channels = pair.config.nb_harmonics + 1
    phases = np.linspace(0, 3, channels, dtype=np.float32)
    noise = np.random.default_rng(2).standard_normal((len(f0) * theirs.model.hop, channels)).astype(np.float32)
    source = theirs.excite(f0, phases, noise)
    np.testing.assert_allclose(ours.excite(f0, phases, noise), source, atol=2e-4)
    samples = theirs.decode(pair.mel, source)
    assert np.abs(samples).max() > 1e-3
    np.testing.assert_allclose(ours.decode(pair.mel, source), samples, atol=1e-5)


@pytest.mark.parametrize("cuts", [[FRAMES], [25, 25], [21, 20, 9]])
def test_streams_equal_those_of_the_reference(pair: Pair, cuts: list[int]) -> None:
    ours, theirs = speak(pair.native, pair.mel, cuts), speak(pair.reference, pair.mel, cuts)
    assert len(ours) == FRAMES * pair.native._hop
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_single_frame(pair: Pair) -> None:
    ours, theirs = (speak(stage, pair.mel[:1], [1]) for stage in (pair.native, pair.reference))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_blocks_make_no_difference(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, random = pair.native.networks, np.random.default_rng(3)
    assert isinstance(networks, NativeHiFT)
    mel = random.standard_normal((120, pair.config.in_channels)).astype(np.float32)
    source = random.uniform(-0.5, 0.5, 120 * pair.native._hop).astype(np.float32)
    whole = networks.decode(mel, source)
    monkeypatch.setattr(hift, "BLOCK_FRAMES", 25)
    np.testing.assert_allclose(networks.decode(mel, source), whole, atol=1e-6)
    # The context is no larger than it has to be by much.
    monkeypatch.setattr(networks, "_context", context_frames(pair.config) // 2)
    assert np.abs(networks.decode(mel, source) - whole).max() > 1e-6


def test_stretches_side_by_side_make_no_difference(pair: Pair) -> None:
    context = context_frames(pair.config)
    mel = np.resize(pair.mel, (4 * context, pair.config.in_channels))
    one, two = (NativeHiFT(pair.directory, pair.config, Runtime(threads)) for threads in (1, 2))
    source = np.random.default_rng(2).standard_normal(len(mel) * one._hop).astype(np.float32) * 0.1
    alone = one.decode(mel, source)
    assert np.abs(alone).max() > 1e-3
    np.testing.assert_allclose(two.decode(mel, source), alone, atol=1e-5)


def test_many_threads_share_a_stage(pair: Pair) -> None:
    mels = [np.roll(pair.mel, shift, axis=0) for shift in range(4)]
    alone = [speak(pair.native, mel, [30, 20]) for mel in mels]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda mel: speak(pair.native, mel, [30, 20]), mels))
    for ours, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_a_graph_of_another_vocoder_is_refused(pair: Pair) -> None:
    config = pair.config.model_copy(update={"istft_n_fft": pair.config.istft_n_fft + 2})
    with pytest.raises(ModelError, match="another configuration"):
        NativeHiFTStage(pair.directory, config, Runtime(1))


def test_a_causal_vocoder_is_refused(tmp_path: Path) -> None:
    causal = CONFIGS["v2"].model_copy(update={"causal": True, "source_phase": "frame"})
    build_vocoder(export(generator_of(causal), tmp_path), causal, tmp_path)
    with pytest.raises(ModelError, match=r"condnet\.0.*convert the model again"):
        NativeHiFTStage(tmp_path, CONFIGS["v2"], Runtime(1))


def test_samples_that_are_not_finite_are_an_error(pair: Pair) -> None:
    mel = pair.mel.copy()
    mel[7, 3] = np.inf
    with pytest.raises(GenerationError, match="not finite"), np.errstate(invalid="ignore"):
        speak(pair.native, mel, [FRAMES])


def test_kernels_are_those_of_the_reference() -> None:
    assert (vocoder_reach.PRE_KERNEL, vocoder_reach.POST_KERNEL) == (
        generator_module.PRE_KERNEL,
        generator_module.POST_KERNEL,
    )
