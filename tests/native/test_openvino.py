"""OpenVINO beside ONNX Runtime: the same stage on both. Skipped where it is not installed."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import cosyvoice
from cosyvoice.benchmark.random_model import geometry, random_weights, write_random_model
from cosyvoice.config.bundle import Bundle
from cosyvoice.config.model import DiTConfig, FlowConfig, HiFTConfig, MaskedDiffConfig
from cosyvoice.engine.stages import FlowInput, MelChunk, TokenChunk
from cosyvoice.errors import ConfigError, GenerationError, MissingDependencyError, ModelError
from cosyvoice.export.flow_graph import build_flow, quantise_flow
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.quality import signal_to_noise
from cosyvoice.native.chunked_flow import PLAIN_GRAPHS, CacheType
from cosyvoice.native.engines import flow_engine, vocoder_engine
from cosyvoice.native.flow import NativeFlowStage
from cosyvoice.native.openvino import GROUP, OpenVINO, multiplies_bfloat16
from cosyvoice.native.options import Arithmetic, VocoderOptions
from cosyvoice.native.runtime import Engine, Runtime, run
from cosyvoice.native.solver import FlowOptions

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
TINY = geometry("tiny")
DIT = DiTConfig(dim=GROUP, depth=2, heads=2, dim_head=16, static_chunk_size=10)
CONFIG = TINY.flow.model_copy(update={"dit": DIT}) if isinstance(TINY.flow, FlowConfig) else FlowConfig(dit=DIT)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    weights = random_weights(TINY.model_copy(update={"flow": CONFIG}), "flow")
    made = {}
    for precision in ("fp32", "int8"):
        directory = made[precision] = tmp_path_factory.mktemp(precision)
        kept = weights if precision == "fp32" else quantise_flow(weights, precision)
        save_file({name: np.ascontiguousarray(array) for name, array in kept.items()}, directory / "flow.safetensors")
        build_flow(TensorFile(directory / "flow.safetensors"), CONFIG, directory)
    return made


@pytest.fixture(scope="module")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model("tiny", tmp_path_factory.mktemp("random") / "tiny")


def speak(directory: Path, engine: Engine, cache: CacheType = "float32", masks: bool = True) -> np.ndarray:
    """The mel of an utterance in two chunks after a prompt."""
    stage = NativeFlowStage(directory, CONFIG, engine, cache_type=cache)
    return say(stage, masks)


def say(stage: NativeFlowStage, masks: bool = True) -> np.ndarray:
    random = np.random.default_rng(3)
    prompt = FlowInput(
        random.integers(0, 64, 12).astype(np.int32),
        random.standard_normal((24, 80)).astype(np.float32),
        random.standard_normal(192).astype(np.float32),
    )
    state, tokens = stage.init_state(prompt), random.integers(0, 64, 20).tolist()
    first, state = stage.step(TokenChunk(tokens[:9], finalize=False, chunk_masks=masks), state)
    rest, _ = stage.step(TokenChunk(tokens[9:], finalize=True, chunk_masks=masks), state)
    return np.concatenate([first, rest])


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean() / np.abs(b).mean())


@needs_openvino
@pytest.mark.parametrize("masks", [True, False])
def test_single_precision_is_that_of_onnx_runtime(directories: dict[str, Path], masks: bool) -> None:
    expected = speak(directories["fp32"], Runtime(1), masks=masks)
    np.testing.assert_allclose(speak(directories["fp32"], OpenVINO(1, "float32"), masks=masks), expected, atol=1e-4)


@needs_openvino
def test_a_cache_in_half_precision(directories: dict[str, Path]) -> None:
    expected = speak(directories["fp32"], Runtime(1), "float16")
    np.testing.assert_allclose(speak(directories["fp32"], OpenVINO(1, "float32"), "float16"), expected, atol=1e-3)


@needs_openvino
@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_coarser_numbers_stay_near(directories: dict[str, Path], arithmetic: Arithmetic) -> None:
    exact = speak(directories["fp32"], Runtime(1))
    quantised = relative(speak(directories["int8"], OpenVINO(1, arithmetic)), exact)
    assert 0 < quantised < 0.03
    if arithmetic == "bfloat16":
        # Where the processor lacks it, OpenVINO may compute in single precision.
        assert relative(speak(directories["fp32"], OpenVINO(1, arithmetic)), exact) < 0.01


@needs_openvino
def test_threads_do_not_disturb_each_other(directories: dict[str, Path]) -> None:
    stage = NativeFlowStage(directories["fp32"], CONFIG, OpenVINO(1, "float32"))
    alone = say(stage)
    with ThreadPoolExecutor(3) as pool:
        for together in pool.map(lambda _: say(stage), range(3)):
            np.testing.assert_array_equal(together, alone)


@needs_openvino
def test_missing_and_damaged_graphs_and_wrong_inputs(directories: dict[str, Path], tmp_path: Path) -> None:
    engine = OpenVINO(1, "float32")
    with pytest.raises(ModelError, match="convert the model again"):
        engine.session(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="OpenVINO cannot use"):
        engine.session(tmp_path / "bad.onnx")
    session = engine.session(directories["fp32"] / PLAIN_GRAPHS["float32"])
    with pytest.raises(GenerationError, match="native engine failed"):
        run(session, ["velocity"], {"x": np.zeros((1, 4, 3), np.float32)})


def test_asked_for_without_being_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"cosyvoice\[openvino\]"):
        flow_engine(FlowOptions(engine="openvino"), FlowConfig(), Bundle(), 1)


def test_settings_that_do_not_fit() -> None:
    for options, config, problem in (
        (FlowOptions(engine="tensorrt"), FlowConfig(), "engine of the flow"),  # type: ignore[arg-type]
        (FlowOptions(arithmetic="float8"), FlowConfig(), "arithmetic of the flow"),  # type: ignore[arg-type]
        (FlowOptions(engine="onnxruntime", arithmetic="bfloat16"), FlowConfig(), "no bfloat16"),
        (FlowOptions(engine="openvino"), MaskedDiffConfig(), "V3 models only"),
    ):
        with pytest.raises(ConfigError, match=problem):
            flow_engine(options, config, Bundle(), 1)
    with pytest.raises(ConfigError, match="the vocoder of V3 models only"):
        vocoder_engine(VocoderOptions(engine="openvino"), HiFTConfig(causal=False), Bundle(), 1)


@needs_openvino
@pytest.mark.parametrize("native", [True, False])
def test_what_is_chosen(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr("cosyvoice.native.engines.multiplies_bfloat16", lambda: native)

    def chosen(options: FlowOptions, precision: str) -> str:
        engine = flow_engine(options, FlowConfig(), Bundle(stages={"flow": precision}), 1)
        return engine.arithmetic if isinstance(engine, OpenVINO) else "onnxruntime"

    assert chosen(FlowOptions(), "int8") == "onnxruntime"
    asked = FlowOptions(engine="openvino")
    assert chosen(asked, "int8") == ("bfloat16" if native else "float32") and chosen(asked, "fp32") == "float32"
    assert chosen(FlowOptions(engine="openvino", arithmetic="bfloat16"), "fp32") == "bfloat16"
    vocoder = vocoder_engine(VocoderOptions(engine="openvino"), HiFTConfig(), Bundle(precision="mixed"), 1)
    assert vocoder is not None and vocoder.arithmetic == ("bfloat16" if native else "float32")
    assert vocoder_engine(VocoderOptions(), HiFTConfig(), Bundle(precision="int8"), 1) is None


@needs_openvino
def test_a_bundle_speaks_through_it_and_says_so(random_bundle: Path) -> None:
    second = VocoderOptions(engine="openvino")
    tts = cosyvoice.load(random_bundle, threads=1, flow=FlowOptions(engine="openvino"), vocoder=second)
    assert tts.model.stages.description["flow"].startswith("OpenVINO 20")
    assert tts.model.stages.description["vocoder"].endswith("float32")
    stage = tts.model.stages.flow
    assert isinstance(stage, NativeFlowStage) and len(say(stage)) == 40
    assert isinstance(multiplies_bfloat16(), bool)


@needs_openvino
@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_the_vocoder_in_chunks_and_at_once(random_bundle: Path, arithmetic: Arithmetic) -> None:
    def samples(options: VocoderOptions, cuts: list[int]) -> np.ndarray:
        stage = cosyvoice.load(random_bundle, threads=2, vocoder=options).model.stages.vocoder
        state, parts, given = stage.init_state(), [], 0
        for cut in cuts:
            part, state = stage.step(MelChunk(mel[given:cut], finalize=cut == len(mel)), state)
            parts, given = [*parts, part], cut
        return np.concatenate(parts)

    mel = np.random.default_rng(7).normal(-6, 2, (130, 80)).astype(np.float32)
    expected = samples(VocoderOptions(), [130])
    options = VocoderOptions(engine="openvino", arithmetic=arithmetic)
    for cuts in ([130], [24, 74, 130]):
        found = samples(options, cuts)
        if arithmetic == "float32":
            np.testing.assert_allclose(found, expected, atol=1e-4)
        else:
            assert signal_to_noise(expected, found) > 15
