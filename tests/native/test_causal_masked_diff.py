from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from cosyvoice.engine.stages import FloatArray, FlowInput, TokenChunk
from cosyvoice.errors import ConfigError, GenerationError, VoiceError
from cosyvoice.export.flow_graph import quantise_flow
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.unet_flow_graph import build_causal_masked_diff
from cosyvoice.flow.causal_masked_diff import CausalMaskedDiffWithXvec
from cosyvoice.native.causal_masked_diff import NativeCausalMaskedDiffStage, cache_values
from cosyvoice.native.runtime import Runtime
from cosyvoice.native.solver import FlowOptions
from cosyvoice.reference.stages import TorchFlowStage

TOKENS = [(7 * i + i * i) % 37 for i in range(31)]
Step = tuple[int, bool]
"""Tokens of a chunk, and whether it has chunk masks."""


def voice(prompt: int = 8, seed: int = 12) -> FlowInput:
    random = np.random.default_rng(seed)
    return FlowInput(
        random.integers(0, 37, prompt).astype(np.int32),
        random.standard_normal((2 * prompt, 8)).astype(np.float32),
        random.standard_normal(12).astype(np.float32),
    )


def convert(network: CausalMaskedDiffWithXvec, directory: Path, precision: str = "fp32") -> Path:
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    save_file(weights if precision == "fp32" else quantise_flow(weights, precision), directory / "flow.safetensors")
    build_causal_masked_diff(TensorFile(directory / "flow.safetensors"), network.config, directory)
    return directory


@pytest.fixture(scope="module")
def network(causal_masked_diff: CausalMaskedDiffWithXvec) -> CausalMaskedDiffWithXvec:
    return causal_masked_diff


@pytest.fixture(scope="module")
def converted(network: CausalMaskedDiffWithXvec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(network, tmp_path_factory.mktemp("flow"))


@pytest.fixture(scope="module")
def stage(converted: Path, network: CausalMaskedDiffWithXvec) -> NativeCausalMaskedDiffStage:
    return NativeCausalMaskedDiffStage(converted, network.config, Runtime(1))


def speak(
    stage: NativeCausalMaskedDiffStage | TorchFlowStage,
    steps: list[Step],
    inputs: FlowInput,
    tokens: list[int] = TOKENS,
) -> list[FloatArray]:
    """The mel of each step; the last takes all tokens that are left, and finalises."""
    state, parts, begin = stage.init_state(inputs), [], 0
    for index, (count, masks) in enumerate(steps):
        last = index == len(steps) - 1
        end = len(tokens) if last else begin + count
        mel, state = stage.step(TokenChunk(tokens[begin:end], last, masks), state)
        parts.append(mel)
        begin = end
    return parts


ALIGNED: list[Step] = [(10, True), (5, True), (0, True)]
"""8 prompt tokens, 3 of look-ahead: 15 tokens are known then, which fill attention chunks of 5."""
STEPS: dict[str, list[Step]] = {
    "whole": [(0, False)],
    "whole with chunk masks": [(0, True)],
    "aligned": ALIGNED,
    "hops that end inside chunks": [(4, True), (7, True), (6, True), (0, True)],
    "released end": [(10, True), (10, True), (0, False)],
    "without chunk masks": [(9, False), (8, False), (0, False)],
    "no tokens at the end": [(10, True), (21, True), (0, True)],
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("prompt", [8, 5, 0])
def test_every_schedule_gives_the_mel_of_the_reference(
    stage: NativeCausalMaskedDiffStage, network: CausalMaskedDiffWithXvec, name: str, prompt: int
) -> None:
    ours, expected = (speak(each, STEPS[name], voice(prompt)) for each in (stage, TorchFlowStage(network)))
    assert [part.shape for part in ours] == [part.shape for part in expected]
    np.testing.assert_allclose(np.concatenate(ours), np.concatenate(expected), atol=1e-4)


def test_chunks_are_the_whole_whatever_the_hops(stage: NativeCausalMaskedDiffStage) -> None:
    whole = np.concatenate(speak(stage, [(0, True)], voice()))
    assert len(whole) == 2 * len(TOKENS)
    for hops in (ALIGNED, [(5, True), (5, True), (15, True), (0, True)]):
        np.testing.assert_allclose(np.concatenate(speak(stage, hops, voice())), whole, atol=1e-5)


def test_a_step_computes_its_own_tokens_only(
    stage: NativeCausalMaskedDiffStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[tuple[int, int]] = []
    encode = stage._encoder

    def counting(tokens: Any, first: int, end: int, *rest: Any) -> FloatArray:
        computed.append((first, end))
        return encode(tokens, first, end, *rest)

    monkeypatch.setattr(stage, "_encoder", counting)
    stage.prepare(voice())
    computed.clear()
    speak(stage, ALIGNED, voice())
    # Of the 8 tokens of the prompt 5 are of a chunk that no spoken token can change.
    assert computed == [(5, 10), (10, 15), (15, 20), (20, 25), (25, 30), (30, 35), (35, 39)]


def test_a_bounded_context_bounds_memory_and_keeps_the_prompt(
    converted: Path, network: CausalMaskedDiffWithXvec, stage: NativeCausalMaskedDiffStage
) -> None:
    long = TOKENS * 3
    exact = np.concatenate(speak(stage, ALIGNED, voice(), long))
    wide = NativeCausalMaskedDiffStage(converted, network.config, Runtime(1), max_context=1000)
    np.testing.assert_allclose(np.concatenate(speak(wide, ALIGNED, voice(), long)), exact, atol=0)
    bounded = NativeCausalMaskedDiffStage(converted, network.config, Runtime(1), max_context=43)
    state = bounded.init_state(voice())
    prompt = bounded._prompt_context(state)
    kept = [[array.copy() for array in entry.blocks] for entry in prompt.evaluations]
    sizes = []
    for begin in range(0, 80, 10):
        _, state = bounded.step(TokenChunk(long[begin : begin + 10], False, True), state)
        assert state.context is not None
        sizes.append(state.context.nbytes)
    assert len(set(sizes[3:])) == 1
    # The solver's entries hold frames, then come those of the encoder at the rate of the tokens and of the mel.
    assert [entry.blocks[0].shape[2] for entry in state.context.evaluations] == [40, 40, 40, 20, 40]
    for entry, before in zip(state.context.evaluations, kept, strict=True):
        for held, array in zip(entry.blocks, before, strict=True):
            np.testing.assert_array_equal(held[:, :, : array.shape[2]], array)
    for entry, before in zip(prompt.evaluations, kept, strict=True):
        for held, array in zip(entry.blocks, before, strict=True):
            np.testing.assert_array_equal(held, array)
    # What is far behind matters little, but something.
    start = np.concatenate(speak(bounded, ALIGNED, voice(), long))
    np.testing.assert_allclose(start[:20], exact[:20], atol=1e-5)
    assert 1e-5 < np.abs(start - exact).mean() < 0.5 * exact.std()


@pytest.mark.parametrize("options", [FlowOptions(n_timesteps=2, solver="rk4"), FlowOptions(cfg_rate=0.0)])
def test_options_are_those_of_the_reference(
    converted: Path, network: CausalMaskedDiffWithXvec, options: FlowOptions
) -> None:
    inputs = voice()
    for masks in (False, True):
        expected = network.inference(
            torch.tensor([TOKENS]),
            torch.from_numpy(inputs.prompt_token)[None],
            torch.from_numpy(inputs.prompt_mel)[None],
            torch.from_numpy(inputs.speaker_embedding)[None],
            streaming=masks,
            n_timesteps=options.n_timesteps,
            solver=options.solver,
            cfg_rate=options.cfg_rate,
        )
        stage = NativeCausalMaskedDiffStage(converted, network.config, Runtime(1), options)
        ours = np.concatenate(speak(stage, ALIGNED if masks else [(0, False)], inputs))
        np.testing.assert_allclose(ours, expected[0].numpy().T, atol=1e-4)


def test_requests_in_threads_do_not_touch_each_other(converted: Path, network: CausalMaskedDiffWithXvec) -> None:
    for limit in (None, 20):
        stage = NativeCausalMaskedDiffStage(converted, network.config, Runtime(1), max_context=limit)
        voices = [voice(seed=seed) for seed in (1, 2)]
        alone = [np.concatenate(speak(stage, ALIGNED, inputs)) for inputs in voices]
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(speak, stage, ALIGNED, voices[i % 2]) for i in range(6)]
            for i, job in enumerate(jobs):
                np.testing.assert_allclose(np.concatenate(job.result()), alone[i % 2], atol=1e-6)


def test_half_precision_caches_and_quantised_weights(
    stage: NativeCausalMaskedDiffStage, converted: Path, network: CausalMaskedDiffWithXvec, tmp_path: Path
) -> None:
    half = NativeCausalMaskedDiffStage(converted, network.config, Runtime(1), cache_type="float16")
    assert 2 * half.cache_bytes_per_second == stage.cache_bytes_per_second
    assert stage.cache_bytes_per_second == 50 * 4 * cache_values(network.config, stage.plan)
    exact = np.concatenate(speak(stage, ALIGNED, voice()))
    np.testing.assert_allclose(np.concatenate(speak(half, ALIGNED, voice())), exact, atol=0.02)
    directory = convert(network, tmp_path, "int8")
    quantised = NativeCausalMaskedDiffStage(directory, network.config, Runtime(1))
    error = np.sqrt(np.square(np.concatenate(speak(quantised, ALIGNED, voice())) - exact).mean()) / exact.std()
    assert 1e-5 < error < 0.03


def test_bad_input_is_refused_with_its_cure(
    stage: NativeCausalMaskedDiffStage, converted: Path, network: CausalMaskedDiffWithXvec
) -> None:
    with pytest.raises(GenerationError, match="3 speech tokens are too few"):
        stage.step(TokenChunk(TOKENS[:3], False, True), stage.init_state(voice(0)))
    inputs = voice()
    long = FlowInput(inputs.prompt_token, np.zeros((78, 8), np.float32), inputs.speaker_embedding)
    with pytest.raises(VoiceError, match="cut the reference mel to its tokens"):
        speak(stage, [(0, False)], long)
    other = network.config.encoder.model_copy(update={"static_chunk_size": 7})
    config = network.config.model_copy(update={"encoder": other})
    with pytest.raises(ConfigError, match="chunks of 7 tokens, the U-Net to chunks of 10 mel frames"):
        NativeCausalMaskedDiffStage(converted, config, Runtime(1))
    with pytest.raises(ConfigError, match="less than one attention chunk of 10"):
        NativeCausalMaskedDiffStage(converted, network.config, Runtime(1), max_context=9)
