"""The native vocoder against the reference: any geometry, any cut into chunks, many threads, bad input."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.model import HiFTConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.engine.stages import MelChunk
from cosyvoice.errors import GenerationError, ModelError
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.vocoder_graph import build_vocoder, fold_weight_norm
from cosyvoice.hifigan import noise as reference_noise
from cosyvoice.hifigan.generator import CausalHiFTGenerator
from cosyvoice.native import vocoder
from cosyvoice.native.noise import PeriodicNoise, ReleasedNoise
from cosyvoice.native.runtime import Runtime
from cosyvoice.native.vocoder import NativeVocoderStage
from cosyvoice.native.vocoder_reach import stretches
from cosyvoice.reference.stages import TorchVocoderStage

RELEASED_DIR = Path(__file__).parents[1] / "data" / "parity" / "v3" / "model"
FRAMES = 40
SHORT_FRAMES: dict[str, Any] = {
    "upsample_rates": (5, 4),
    "upsample_kernel_sizes": (10, 7),
    "istft_n_fft": 96,
    "istft_hop": 24,
    "free_phase": True,
    "resblock_kernel_sizes": (3, 7),
    "resblock_dilation_sizes": ((1, 3, 5), (1, 3)),
    "source_resblock_kernel_sizes": (3, 7),
    "source_resblock_dilation_sizes": ((1,), (1, 3)),
}
OWN: dict[str, Any] = {
    "f0_in_float64": False,
    "mel_mean": -6.0,
    "mel_std": 3.0,
    "source_phase": "sample",
    "final_silence": 8,
}
CONFIGS = {
    "released": HiFTConfig(base_channels=16, f0_channels=8),
    "own": HiFTConfig(base_channels=16, f0_channels=8, **OWN),
    "short": HiFTConfig(base_channels=16, f0_channels=8, **SHORT_FRAMES, **OWN),
    "other": HiFTConfig(
        base_channels=16,
        f0_channels=8,
        **{**SHORT_FRAMES, "istft_n_fft": 20, "istft_hop": 8, "conv_pre_look_right": 2},
        final_silence=1,
    ),
}


@dataclass(frozen=True)
class Pair:
    """The same weights behind both implementations."""

    config: HiFTConfig
    native: NativeVocoderStage
    reference: TorchVocoderStage
    directory: Path
    mel: np.ndarray
    whole: np.ndarray


def export(generator: CausalHiFTGenerator, directory: Path, dtype: Any = np.float32) -> None:
    keep = ("f0_predictor.",) if generator.config.f0_in_float64 else ()
    weights = fold_weight_norm({name: value.detach().numpy() for name, value in generator.state_dict().items()}, keep)
    save_file({n: np.ascontiguousarray(w.astype(dtype)) for n, w in weights.items()}, directory / "hift.safetensors")
    build_vocoder(TensorFile(directory / "hift.safetensors"), generator.config, directory)


def generator_of(config: HiFTConfig) -> CausalHiFTGenerator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = CausalHiFTGenerator(config).eval()
    with torch.no_grad():
        # Frequencies of speech, some frames of it unvoiced.
        generator.f0_predictor.classifier.weight.mul_(1000)
        for name, value in generator.named_parameters():
            if name.endswith("alpha"):
                value.uniform_(0.2, 3.0, generator=torch.Generator().manual_seed(len(name)))
    return generator


def make_pair(generator: CausalHiFTGenerator, directory: Path, noise: Any, torch_noise: Any) -> Pair:
    export(generator, directory)
    config = generator.config
    native = NativeVocoderStage(directory, config, noise, Runtime(1))
    mel = np.random.default_rng(1).standard_normal((FRAMES, 80)).astype(np.float32) * 2 + config.mel_mean
    reference = TorchVocoderStage(generator, torch_noise, 1)
    return Pair(config, native, reference, directory, mel, np.concatenate(speak(reference, mel, [FRAMES])))


@pytest.fixture(scope="module", params=[*CONFIGS, "parity"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "parity":
        config = read_model_config(RELEASED_DIR)
        generator = CausalHiFTGenerator(config.hift).eval()
        generator.load_state_dict(load_state_dict(RELEASED_DIR / "hift.pt"))
        noises = ReleasedNoise(config.flow, config.hift), reference_noise.ReleasedNoise(config.flow, config.hift)
        return make_pair(generator, directory, *noises)
    generator = generator_of(CONFIGS[request.param])
    return make_pair(generator, directory, PeriodicNoise(9), reference_noise.PeriodicNoise(9))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    directory = tmp_path_factory.mktemp("single")
    noises = PeriodicNoise(9), reference_noise.PeriodicNoise(9)
    return make_pair(generator_of(CONFIGS["short"]), directory, *noises)


def speak(stage: Any, mel: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    """The samples of every step; the last one ends the utterance."""
    state = stage.init_state()
    pieces = []
    for index, part in enumerate(np.split(mel, np.cumsum(cuts)[:-1])):
        samples, state = stage.step(MelChunk(part, index == len(cuts) - 1), state)
        assert samples.dtype == np.float32
        pieces.append(samples)
    return pieces


@pytest.mark.parametrize(
    "cuts",
    [[FRAMES], [FRAMES, 0], [9, 31], [8, 1, 0, 5, 20, 6], [1] * FRAMES, [7, 32, 1]],
    ids=lambda cuts: "-".join(map(str, cuts[:4])),
)
def test_any_chunks_say_what_the_reference_says(pair: Pair, cuts: list[int]) -> None:
    pieces = speak(pair.native, pair.mel, cuts)
    hop = len(pair.whole) // FRAMES
    generator = pair.reference.model
    given = [generator.chunk_samples(frames) for frames in np.cumsum(cuts)[:-1]]
    assert np.cumsum([len(piece) for piece in pieces]).tolist() == [*given, FRAMES * hop]
    assert float(np.abs(pair.whole).max()) > 0.01
    np.testing.assert_allclose(np.concatenate(pieces), pair.whole, atol=1e-4)


def test_counts_are_those_of_the_reference_stage(own: Pair) -> None:
    cuts = [5, 5, 0, 10, 12, 8]
    native, reference = (speak(stage, own.mel, cuts) for stage in (own.native, own.reference))
    assert [len(piece) for piece in native] == [len(piece) for piece in reference]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 12), min_size=1, max_size=6))
def test_short_utterances_in_random_chunks(own: Pair, cuts: list[int]) -> None:
    mel = own.mel[: sum(cuts)]
    if len(mel) == 0:
        with pytest.raises(GenerationError, match="0 mel frames"):
            speak(own.native, mel, cuts)
        return
    expected = speak(own.reference, mel, [len(mel)])[0]
    np.testing.assert_allclose(np.concatenate(speak(own.native, mel, cuts)), expected, atol=1e-4)


def test_long_input_in_blocks(own: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocoder, "BLOCK_FRAMES", 7)
    np.testing.assert_allclose(speak(own.native, own.mel, [FRAMES])[0], own.whole, atol=1e-4)


def test_stretches_side_by_side_say_the_same(pair: Pair) -> None:
    noise = pair.native._source._noise
    stage = NativeVocoderStage(pair.directory, pair.config, noise, Runtime(3))
    mel = np.tile(pair.mel, (3, 1))
    alone = speak(pair.native, mel, [len(mel)])[0]
    np.testing.assert_allclose(np.concatenate(speak(stage, mel, [5, len(mel) - 5])), alone, atol=1e-5)
    assert len(stretches(0, len(mel), stage._context, 3)) == 3
    # What a stretch sees matters: with too little of it the samples are others.
    stage._context = 1
    assert np.abs(speak(stage, mel, [len(mel)])[0] - alone).max() > 1e-4


def test_an_alpha_of_nothing(tmp_path: Path) -> None:
    """Where alpha is 0 an activation is the identity, which no division may spoil."""
    generator = generator_of(CONFIGS["short"])
    with torch.no_grad():
        for name, value in generator.named_parameters():
            if name.endswith("alpha"):
                value[:3] = torch.tensor([0.0, 1e-12, -0.5])
    pair = make_pair(generator, tmp_path, PeriodicNoise(9), reference_noise.PeriodicNoise(9))
    np.testing.assert_allclose(speak(pair.native, pair.mel, [FRAMES])[0], pair.whole, atol=1e-4)


def test_the_state_does_not_grow_and_a_step_computes_its_own_frames(own: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []

    def run(session: Any, outputs: Any, inputs: Any) -> Any:
        computed.append(inputs["mel"].shape[2] - own.config.conv_pre_look_right)
        return session.run(outputs, inputs)

    monkeypatch.setattr(vocoder, "run", run)
    state = own.native.init_state()
    sizes = []
    for _ in range(12):
        _, state = own.native.step(MelChunk(own.mel[:10], False), state)
        sizes.append(_size(state))
    assert computed == [3, *[10] * 11]
    assert len(set(sizes[1:])) == 1


def _size(value: Any) -> int:
    """Bytes of all arrays inside `value`, and of those that they are views of."""
    if isinstance(value, np.ndarray):
        return _size(value.base) if isinstance(value.base, np.ndarray) else value.nbytes
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(_size(part) for part in (vars(value).values() if hasattr(value, "__dict__") else parts))


def test_requests_on_many_threads_do_not_touch_each_other(own: Pair) -> None:
    expected = [np.concatenate(speak(own.native, own.mel[start:], [11, FRAMES - start - 11])) for start in range(4)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(speak, own.native, own.mel[start % 4 :], [11, FRAMES - start % 4 - 11]) for start in range(12)
        ]
    for start, job in enumerate(jobs):
        np.testing.assert_array_equal(np.concatenate(job.result()), expected[start % 4])


def test_half_precision_weights_say_nearly_the_same(own: Pair, tmp_path: Path) -> None:
    export(generator_of(own.config), tmp_path, np.float16)
    stage = NativeVocoderStage(tmp_path, own.config, PeriodicNoise(9), Runtime(1))
    error = np.abs(speak(stage, own.mel, [FRAMES])[0] - own.whole)
    assert 0 < float(np.sqrt(np.mean(error**2))) < 0.1 * float(np.sqrt(np.mean(own.whole**2)))


def test_samples_stay_within_the_limit(own: Pair, tmp_path: Path) -> None:
    generator = generator_of(own.config)
    with torch.no_grad():
        generator.conv_post.parametrizations.weight.original0.mul_(40)
    export(generator, tmp_path)
    stage = NativeVocoderStage(tmp_path, own.config, PeriodicNoise(9), Runtime(1))
    samples = speak(stage, own.mel, [FRAMES])[0]
    assert float(np.abs(samples).max()) == pytest.approx(own.config.audio_limit)


def test_numbers_that_are_not_finite_are_refused(own: Pair) -> None:
    mel = own.mel.copy()
    mel[20, 3] = np.nan
    with pytest.raises(GenerationError, match=r"vocoder.*not finite.*higher precision"):
        speak(own.native, mel, [FRAMES])


def test_wrong_shapes_and_ended_utterances_are_refused(own: Pair) -> None:
    state = own.native.init_state()
    with pytest.raises(GenerationError, match="transpose"):
        own.native.step(MelChunk(own.mel.T, False), state)
    state = own.native.init_state()
    _, state = own.native.step(MelChunk(own.mel, True), state)
    with pytest.raises(GenerationError, match="has ended"):
        own.native.step(MelChunk(own.mel, False), state)


def test_damaged_and_foreign_models_are_refused(own: Pair, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"hift\.safetensors"):
        NativeVocoderStage(tmp_path, own.config, PeriodicNoise(9), Runtime(1))
    foreign = CONFIGS["released"].model_copy(update={"istft_n_fft": 32})
    with pytest.raises(ModelError, match="another configuration"):
        NativeVocoderStage(own.directory, foreign, PeriodicNoise(9), Runtime(1))
