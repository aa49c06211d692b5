from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from cosyvoice.engine.stages import FloatArray, FlowInput, TokenChunk
from cosyvoice.errors import ConfigError, GenerationError, ModelError, VoiceError
from cosyvoice.export.flow_graph import quantise_flow
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.unet_flow_graph import build_masked_diff
from cosyvoice.flow.masked_diff import MaskedDiffWithXvec
from cosyvoice.native.masked_diff import NativeMaskedDiffStage
from cosyvoice.native.runtime import Runtime
from cosyvoice.native.solver import FlowOptions
from cosyvoice.reference.masked_diff import TorchMaskedDiffStage

TOKENS = [(7 * i + i * i) % 37 for i in range(45)]
HOPS = [20, 35, 45]


def voice(tokens: int = 9, frames: int = 14, seed: int = 3) -> FlowInput:
    random = np.random.default_rng(seed)
    mel = random.standard_normal((frames, 8)).astype(np.float32)
    ids = random.integers(0, 37, tokens).astype(np.int32)
    return FlowInput(ids, mel, random.standard_normal(12).astype(np.float32))


def convert(network: MaskedDiffWithXvec, directory: Path, precision: str = "fp32") -> Path:
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    save_file(weights if precision == "fp32" else quantise_flow(weights, precision), directory / "flow.safetensors")
    build_masked_diff(TensorFile(directory / "flow.safetensors"), network.config, directory)
    return directory


@pytest.fixture(scope="module")
def converted(masked_diff: MaskedDiffWithXvec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(masked_diff, tmp_path_factory.mktemp("flow"))


@pytest.fixture(scope="module")
def stage(converted: Path, masked_diff: MaskedDiffWithXvec) -> NativeMaskedDiffStage:
    return NativeMaskedDiffStage(converted, masked_diff.config, Runtime(1))


def speak(stage: NativeMaskedDiffStage | TorchMaskedDiffStage, ends: list[int], inputs: FlowInput) -> list[FloatArray]:
    state, parts, begin = stage.init_state(inputs), [], 0
    for end in ends:
        mel, state = stage.step(TokenChunk(TOKENS[begin:end], end == ends[-1], False), state)
        parts.append(mel)
        begin = end
    return parts


@pytest.mark.parametrize("ends", [[45], [7], [10], [11], HOPS, [6, 7, 45]])
@pytest.mark.parametrize("prompt", [(9, 14), (0, 0)])
def test_every_schedule_gives_the_mel_of_the_reference(
    stage: NativeMaskedDiffStage, masked_diff: MaskedDiffWithXvec, ends: list[int], prompt: tuple[int, int]
) -> None:
    ours, expected = speak(stage, ends, voice(*prompt)), speak(TorchMaskedDiffStage(masked_diff), ends, voice(*prompt))
    assert [part.shape for part in ours] == [part.shape for part in expected]
    np.testing.assert_allclose(np.concatenate(ours), np.concatenate(expected), atol=1e-4)


@pytest.mark.parametrize("options", [FlowOptions(n_timesteps=2, solver="rk4"), FlowOptions(cfg_rate=0.0)])
def test_options_are_those_of_the_reference(
    converted: Path, masked_diff: MaskedDiffWithXvec, options: FlowOptions
) -> None:
    inputs = voice()
    expected, _ = masked_diff.inference(
        torch.tensor([TOKENS]),
        torch.from_numpy(inputs.prompt_token)[None],
        torch.from_numpy(inputs.prompt_mel)[None],
        torch.from_numpy(inputs.speaker_embedding)[None],
        n_timesteps=options.n_timesteps,
        solver=options.solver,
        cfg_rate=options.cfg_rate,
    )
    ours = speak(NativeMaskedDiffStage(converted, masked_diff.config, Runtime(1), options), [45], inputs)
    np.testing.assert_allclose(ours[0], expected[0].numpy().T, atol=1e-4)


def test_compat_and_noise_are_those_of_the_reference(converted: Path, masked_diff: MaskedDiffWithXvec) -> None:
    def noise(step: int, prompt_frames: int, first: int, frames: int) -> FloatArray:
        return np.random.default_rng(step).standard_normal((prompt_frames + frames, 8)).astype(np.float32)

    more: dict[str, Any] = {"noise": noise, "compat": "released"}
    ours = speak(NativeMaskedDiffStage(converted, masked_diff.config, Runtime(1), **more), HOPS, voice())
    expected = speak(TorchMaskedDiffStage(masked_diff, **more), HOPS, voice())
    np.testing.assert_allclose(np.concatenate(ours), np.concatenate(expected), atol=1e-4)


def test_requests_in_threads_do_not_touch_each_other(stage: NativeMaskedDiffStage) -> None:
    voices = [voice(seed=seed) for seed in (1, 2)]
    alone = [np.concatenate(speak(stage, HOPS, inputs)) for inputs in voices]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(speak, stage, HOPS, voices[i % 2]) for i in range(6)]
        for i, job in enumerate(jobs):
            np.testing.assert_allclose(np.concatenate(job.result()), alone[i % 2], atol=1e-6)


def test_quantised_weights_give_nearly_the_same(
    stage: NativeMaskedDiffStage, masked_diff: MaskedDiffWithXvec, tmp_path: Path
) -> None:
    directory = convert(masked_diff, tmp_path, "int8")
    quantised = speak(NativeMaskedDiffStage(directory, masked_diff.config, Runtime(1)), [45], voice())[0]
    exact = speak(stage, [45], voice())[0]
    error = np.sqrt(np.square(quantised - exact).mean()) / exact.std()
    assert 1e-5 < error < 0.03


def test_bad_input_is_refused_as_by_the_reference(
    stage: NativeMaskedDiffStage, converted: Path, masked_diff: MaskedDiffWithXvec, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"speech token 37 is outside 0\.\.36"):
        stage.step(TokenChunk([37], True, False), stage.init_state(voice()))
    with pytest.raises(VoiceError, match="9 speech tokens and 0 mel frames"):
        stage.init_state(voice(9, 0))
    with pytest.raises(GenerationError, match="no speech token"):
        stage.step(TokenChunk([], True, False), stage.init_state(voice()))
    with pytest.raises(ConfigError, match="at least 1 step"):
        NativeMaskedDiffStage(converted, masked_diff.config, Runtime(1), FlowOptions(n_timesteps=0))
    with pytest.raises(ModelError, match="convert the model again"):
        NativeMaskedDiffStage(tmp_path, masked_diff.config, Runtime(1))


def test_a_model_that_gives_no_numbers_is_named(converted: Path, masked_diff: MaskedDiffWithXvec) -> None:
    def noise(step: int, prompt_frames: int, first: int, frames: int) -> FloatArray:
        return np.full((prompt_frames + frames, 8), np.nan, np.float32)

    stage = NativeMaskedDiffStage(converted, masked_diff.config, Runtime(1), noise=noise)
    with pytest.raises(GenerationError, match="flow gave values that are not finite"):
        speak(stage, [45], voice())
