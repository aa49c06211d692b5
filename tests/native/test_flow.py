from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import cosyvoice
from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.model import DiTConfig, FlowConfig, ModelConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.engine.stages import FloatArray, FlowInput, TokenChunk
from cosyvoice.errors import ConfigError, GenerationError, ModelError, VoiceError
from cosyvoice.export.flow_graph import build_flow, quantise_flow
from cosyvoice.export.graph import TensorFile
from cosyvoice.flow.flow import CausalMaskedDiffWithDiT
from cosyvoice.native.flow import NativeFlowStage
from cosyvoice.native.runtime import Runtime
from cosyvoice.native.solver import FlowOptions
from cosyvoice.reference.stages import TorchFlowStage
from cosyvoice.voice.voice import Voice

CHUNK = 10
SMALL = FlowConfig(
    vocab_size=37,
    speaker_embedding_dim=12,
    mel_dim=8,
    pre_lookahead_channels=10,
    mel_mean=-1.0,
    mel_std=2.0,
    dit=DiTConfig(
        dim=32, depth=2, heads=3, dim_head=8, mel_dim=8, mu_dim=6, spk_dim=5, out_channels=8, static_chunk_size=CHUNK
    ),
).model_copy(update={"cfm": FlowConfig().cfm.model_copy(update={"n_timesteps": 3})})
TOKENS = [(7 * i + i * i) % 37 for i in range(41)]
MINI = Path(cosyvoice.__file__).parent / "pretrained" / "mini"


def voice(config: FlowConfig = SMALL, prompt: int = 13, seed: int = 12) -> FlowInput:
    random = np.random.default_rng(seed)
    return FlowInput(
        random.integers(0, config.vocab_size, prompt).astype(np.int32),
        random.standard_normal((2 * prompt, config.mel_dim)).astype(np.float32),
        random.standard_normal(config.speaker_embedding_dim).astype(np.float32),
    )


@pytest.fixture(scope="module")
def network() -> CausalMaskedDiffWithDiT:
    network = CausalMaskedDiffWithDiT(SMALL)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.12)
    return network.eval()


def convert(network: CausalMaskedDiffWithDiT, directory: Path) -> Path:
    save_file({name: tensor.numpy() for name, tensor in network.state_dict().items()}, directory / "flow.safetensors")
    build_flow(TensorFile(directory / "flow.safetensors"), network.config, directory)
    return directory


@pytest.fixture(scope="module")
def converted(network: CausalMaskedDiffWithDiT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(network, tmp_path_factory.mktemp("flow"))


@pytest.fixture(scope="module")
def stage(converted: Path) -> NativeFlowStage:
    return make(converted)


def make(
    directory: Path, options: FlowOptions | None = None, max_context: int | None = None, **more
) -> NativeFlowStage:  # type: ignore[no-untyped-def]
    return NativeFlowStage(directory, SMALL, Runtime(1), options, max_context, **more)


Step = tuple[int, bool]
"""Tokens of a chunk, and whether it has chunk masks."""


def speak(
    stage: NativeFlowStage | TorchFlowStage,
    steps: list[Step],
    inputs: FlowInput | None = None,
    tokens: list[int] = TOKENS,
) -> list[FloatArray]:
    """The mel of each step; the last takes all tokens that are left, and finalises."""
    state = stage.init_state(voice() if inputs is None else inputs)
    parts, begin = [], 0
    for index, (count, masks) in enumerate(steps):
        last = index == len(steps) - 1
        end = len(tokens) if last else begin + count
        mel, state = stage.step(TokenChunk(tokens[begin:end], last, masks), state)
        parts.append(mel)
        begin = end
    return parts


def assert_equal(ours: list[FloatArray], expected: list[FloatArray], atol: float = 1e-4) -> None:
    assert [part.shape for part in ours] == [part.shape for part in expected]
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


ALIGNED: list[Step] = [(10, True), (10, True), (0, True)]
"""13 prompt tokens, 3 of look-ahead: 20 frames are spoken when 40 are known, which fills attention chunks."""
STEPS: dict[str, list[Step]] = {
    "whole": [(0, False)],
    "whole with chunk masks": [(0, True)],
    "aligned": ALIGNED,
    "hops that end inside chunks": [(4, True), (7, True), (6, True), (0, True)],
    "released end": [(10, True), (10, True), (0, False)],
    "without chunk masks": [(9, False), (8, False), (0, False)],
    "no tokens at the end": [(10, True), (31, True), (0, True)],
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("prompt", [13, 10, 0])
def test_every_schedule_gives_the_mel_of_the_reference(
    stage: NativeFlowStage, network: CausalMaskedDiffWithDiT, name: str, prompt: int
) -> None:
    inputs = voice(prompt=prompt)
    assert_equal(speak(stage, STEPS[name], inputs), speak(TorchFlowStage(network), STEPS[name], inputs))


def test_chunks_are_the_whole_whatever_the_hops(stage: NativeFlowStage) -> None:
    whole = np.concatenate(speak(stage, [(0, True)]))
    assert len(whole) == 2 * len(TOKENS)
    for hops in (ALIGNED, [(5, True), (5, True), (15, True), (0, True)]):
        np.testing.assert_allclose(np.concatenate(speak(stage, hops)), whole, atol=1e-5)


def test_a_step_computes_its_own_frames_only(stage: NativeFlowStage, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    sample = stage._sample

    def counting(*args: Any, **kwargs: Any) -> FloatArray:
        _, _, first, end, *_ = args
        computed.append(end - first)
        return sample(*args, **kwargs)

    monkeypatch.setattr(stage, "_sample", counting)
    stage.prepare(voice())
    computed.clear()
    mel = speak(stage, ALIGNED)
    # 26 prompt frames, of which 20 are of chunks that no spoken token can change.
    assert sum(computed) == 26 - 20 + sum(len(part) for part in mel)


def test_prompts_are_computed_once_and_change_nothing(converted: Path) -> None:
    keeping, forgetting = make(converted), make(converted, prompt_cache_bytes=0)
    first, second = speak(keeping, ALIGNED), speak(keeping, ALIGNED)
    assert keeping._prompts.nbytes > 0 and forgetting._prompts.nbytes == 0
    assert_equal(second, first, atol=0)
    assert_equal(speak(forgetting, ALIGNED), first, atol=0)


@pytest.mark.parametrize("part", ["prompt_token", "prompt_mel", "speaker_embedding"])
def test_voices_that_differ_in_one_part_are_kept_apart(
    stage: NativeFlowStage, network: CausalMaskedDiffWithDiT, part: str
) -> None:
    speak(stage, ALIGNED)
    parts = {name: getattr(voice(), name) for name in ("prompt_token", "prompt_mel", "speaker_embedding")}
    changed = FlowInput(**{**parts, part: getattr(voice(seed=3), part)})
    assert_equal(speak(stage, ALIGNED, changed), speak(TorchFlowStage(network), ALIGNED, changed))


def test_requests_in_threads_do_not_touch_each_other(converted: Path) -> None:
    for limit in (None, 2 * CHUNK):
        stage = make(converted, max_context=limit)
        voices = [voice(seed=seed) for seed in (1, 2)]
        alone = [np.concatenate(speak(make(converted, max_context=limit), ALIGNED, inputs)) for inputs in voices]
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(speak, stage, ALIGNED, voices[i % 2]) for i in range(6)]
            for i, job in enumerate(jobs):
                np.testing.assert_allclose(np.concatenate(job.result()), alone[i % 2], atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        FlowOptions(n_timesteps=2, solver="rk4"),
        FlowOptions(cfg_rate=0.0),
        FlowOptions(n_timesteps=5, cfg_rate=1.5),
    ],
)
def test_options_are_those_of_the_reference(
    converted: Path, network: CausalMaskedDiffWithDiT, options: FlowOptions
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
        steps = ALIGNED if masks else [(0, False)]
        ours = np.concatenate(speak(make(converted, options), steps, inputs))
        np.testing.assert_allclose(ours, expected[0].numpy().T, atol=1e-4)


def test_guidance_may_cover_a_part_of_the_steps(converted: Path) -> None:
    guided = make(converted, FlowOptions(guidance=(0.0, 0.4)))
    assert guided.plan.guided == (True, True, False)
    assert guided.cache_bytes_per_second == 5 / 6 * make(converted).cache_bytes_per_second
    chunked, whole = speak(guided, ALIGNED), speak(guided, [(0, True)])
    np.testing.assert_allclose(np.concatenate(chunked), whole[0], atol=1e-5)
    everywhere, nowhere = (
        speak(make(converted), [(0, True)]),
        speak(make(converted, FlowOptions(cfg_rate=0)), [(0, True)]),
    )
    assert np.abs(whole[0] - everywhere[0]).max() > 1e-3 and np.abs(whole[0] - nowhere[0]).max() > 1e-3


@pytest.mark.parametrize(("large", "times"), [(0, 9), (1 << 30, 0)])
def test_the_heap_is_tidied_where_caches_are_large(
    converted: Path, monkeypatch: pytest.MonkeyPatch, large: int, times: int
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr("cosyvoice.native.chunked_flow.LARGE_CACHE", large)
    monkeypatch.setattr("cosyvoice.native.chunked_flow.return_free_memory", lambda: calls.append(True))
    # Around the prompt, and around each chunk; a whole utterance leaves most.
    speak(make(converted), ALIGNED)
    speak(make(converted), [(0, False)])
    assert len(calls) == times


def test_a_bounded_context_bounds_memory_and_keeps_the_prompt(converted: Path) -> None:
    long = TOKENS * 3
    exact = np.concatenate(speak(make(converted), ALIGNED, tokens=long))
    wide = speak(make(converted, max_context=1000), ALIGNED, tokens=long)
    np.testing.assert_allclose(np.concatenate(wide), exact, atol=0)
    stage = make(converted, max_context=47)
    state = stage.init_state(voice())
    stage.prepare(voice())
    prompt = stage._prompt_context(state)
    kept = [array.copy() for array in prompt.evaluations[0].blocks]
    sizes = []
    for begin in range(0, 120, 10):
        _, state = stage.step(TokenChunk(long[begin : begin + 10], False, True), state)
        assert state.context is not None
        sizes.append(state.context.nbytes)
        held = state.context.evaluations[0].blocks[0]
        np.testing.assert_array_equal(held[:, :, :20], kept[0][:, :, :20])
    assert held.shape[2] == 40 and len(set(sizes[3:])) == 1
    for before, after in zip(kept, prompt.evaluations[0].blocks, strict=True):
        np.testing.assert_array_equal(before, after)
    # What is far behind matters little, but something.
    start = np.concatenate(speak(stage, ALIGNED, tokens=long))
    np.testing.assert_allclose(start[:14], exact[:14], atol=1e-5)
    assert 1e-5 < np.abs(start - exact).mean() < 0.5 * exact.std()


def test_half_precision_caches_take_half_the_memory(converted: Path) -> None:
    single, half = make(converted), make(converted, cache_type="float16")
    assert 2 * half.cache_bytes_per_second == single.cache_bytes_per_second
    assert_equal(speak(half, ALIGNED), speak(single, ALIGNED), atol=0.02)
    assert_equal(speak(half, [(0, False)]), speak(single, [(0, False)]), atol=0)


def test_the_released_layout_gives_the_mel_of_the_reference(released_model_dir: Path, tmp_path: Path) -> None:
    network = CausalMaskedDiffWithDiT(read_model_config(released_model_dir).flow)
    network.load_state_dict(load_state_dict(released_model_dir / "flow.pt"))
    stage = NativeFlowStage(convert(network.eval(), tmp_path), network.config, Runtime(1))
    inputs = voice(network.config, prompt=40)
    for steps in ([(0, False)], [(13, True), (25, True), (0, True)]):
        assert_equal(speak(stage, steps, inputs), speak(TorchFlowStage(network, threads=1), steps, inputs))


@pytest.fixture(scope="module")
def mini() -> tuple[FlowConfig, dict[str, np.ndarray], FlowInput, list[int]]:
    config = ModelConfig.model_validate_json((MINI / "config.json").read_text()).flow
    config = config.model_copy(update={"cfm": config.cfm.model_copy(update={"n_timesteps": 2})})
    angus, helen = (Voice.load(MINI / "voices" / f"{name}.safetensors") for name in ("angus", "helen"))
    inputs = FlowInput(angus.speech_token[:30], angus.mel[:60].astype(np.float32), angus.speaker_embedding)
    return config, load_file(MINI / "flow.safetensors"), inputs, helen.speech_token[:28].tolist()


def test_the_shipped_model_in_half_precision_and_quantised(
    mini: tuple[FlowConfig, dict[str, np.ndarray], FlowInput, list[int]], tmp_path: Path
) -> None:
    config, weights, inputs, tokens = mini
    network = CausalMaskedDiffWithDiT(config)
    network.load_state_dict({name: torch.from_numpy(array).float() for name, array in weights.items()})
    steps: list[Step] = [(23, True), (0, True)]
    expected = speak(TorchFlowStage(network, threads=1), steps, inputs, tokens)
    spread = np.concatenate(expected).std()
    for precision, bound in (("half", 2e-5), ("int8", 0.02), ("int4", 0.08)):
        directory = tmp_path / precision
        directory.mkdir()
        quantised = weights if precision == "half" else quantise_flow(weights, precision)
        save_file(quantised, directory / "flow.safetensors")
        build_flow(TensorFile(directory / "flow.safetensors"), config, directory)
        mel = speak(NativeFlowStage(directory, config, Runtime(1)), steps, inputs, tokens)
        error = np.sqrt(np.square(np.concatenate(mel) - np.concatenate(expected)).mean()) / spread
        assert error < bound, (precision, error)
        assert precision == "half" or error > bound / 20


def test_bad_input_is_refused_as_by_the_reference(converted: Path, stage: NativeFlowStage) -> None:
    with pytest.raises(GenerationError, match="3 speech tokens are too few"):
        stage.step(TokenChunk(TOKENS[:3], False, True), stage.init_state(voice(prompt=0)))
    short = make(converted, noise=np.zeros((50, 8), np.float32))
    with pytest.raises(GenerationError, match=r"108 mel frames .* noise for 50"):
        speak(short, [(0, True)])
    inputs = voice()
    long = FlowInput(inputs.prompt_token, np.zeros((108, 8), np.float32), inputs.speaker_embedding)
    with pytest.raises(VoiceError, match="cut the reference mel to its tokens"):
        speak(stage, [(0, False)], long)
    with pytest.raises(ModelError, match=r"speech token 37 is outside 0\.\.36"):
        speak(stage, [(0, False)], tokens=[37])
    with pytest.raises(ConfigError, match="less than one attention chunk of 10"):
        make(converted, max_context=9)
    with pytest.raises(ConfigError, match="cache_type is 'int8'"):
        make(converted, cache_type="int8")


def test_too_few_tokens_may_be_followed_by_more(stage: NativeFlowStage) -> None:
    state = stage.init_state(voice(prompt=0))
    with pytest.raises(GenerationError, match="too few"):
        stage.step(TokenChunk(TOKENS[:2], False, True), state)
    mel, _ = stage.step(TokenChunk(TOKENS[2:], True, True), state)
    np.testing.assert_allclose(mel, speak(stage, [(0, True)], voice(prompt=0))[0], atol=1e-5)


def test_a_finished_utterance_takes_no_more_tokens(stage: NativeFlowStage) -> None:
    state = stage.init_state(voice())
    stage.step(TokenChunk(TOKENS, True, True), state)
    with pytest.raises(GenerationError, match="is finished"):
        stage.step(TokenChunk(TOKENS, True, True), state)


def test_values_that_are_not_finite_are_an_error(converted: Path) -> None:
    noise = np.zeros((200, 8), np.float32)
    noise[30] = np.nan
    stage = make(converted, noise=noise)
    for masks in (False, True):
        with pytest.raises(GenerationError, match="the flow gave values that are not finite"):
            speak(stage, [(0, masks)])


def test_a_directory_without_graph_or_weights_is_an_error(converted: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"flow\.onnx is missing"):
        make(tmp_path)
    weights = load_file(converted / "flow.safetensors")
    save_file({name: array for name, array in weights.items() if "time_mlp" not in name}, tmp_path / "flow.safetensors")
    (tmp_path / "flow.onnx").write_bytes((converted / "flow.onnx").read_bytes())
    with pytest.raises(ModelError, match="convert the model again"):
        make(tmp_path)
