"""OpenVINO beside ONNX Runtime: the same stage on both. Skipped where it is not installed."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cosyvoice.benchmark.random_model import geometry, random_weights
from cosyvoice.config.bundle import Bundle
from cosyvoice.config.model import DiTConfig, FlowConfig, MaskedDiffConfig
from cosyvoice.engine.stages import FlowInput, TokenChunk
from cosyvoice.errors import ConfigError, GenerationError, MissingDependencyError, ModelError
from cosyvoice.export.flow_graph import build_flow, quantise_flow
from cosyvoice.export.graph import TensorFile
from cosyvoice.native.chunked_flow import PLAIN_GRAPHS, CacheType
from cosyvoice.native.flow import NativeFlowStage
from cosyvoice.native.flow_engine import flow_engine
from cosyvoice.native.openvino import GROUP, OpenVINO, is_installed, multiplies_bfloat16
from cosyvoice.native.runtime import Engine, Runtime, run
from cosyvoice.native.solver import Arithmetic, FlowOptions

needs_openvino = pytest.mark.skipif(not is_installed(), reason="OpenVINO is not installed")
TINY = geometry("tiny")
DIT = DiTConfig(dim=GROUP, depth=2, heads=2, dim_head=16, static_chunk_size=10)
CONFIG = TINY.flow.model_copy(update={"dit": DIT}) if isinstance(TINY.flow, FlowConfig) else FlowConfig(dit=DIT)
LARGE = FlowConfig()
WITH_GRAPHS = dict.fromkeys(PLAIN_GRAPHS.values(), 0)


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
    monkeypatch.setattr("cosyvoice.native.flow_engine.is_installed", lambda: False)
    for options in (FlowOptions(engine="openvino"), FlowOptions(arithmetic="bfloat16")):
        with pytest.raises(MissingDependencyError, match=r"cosyvoice\[openvino\]"):
            flow_engine(options, LARGE, Bundle(), Runtime(1))
    bundle = Bundle(stages={"flow": "int8"}, files=WITH_GRAPHS)
    assert isinstance(flow_engine(FlowOptions(), LARGE, bundle, Runtime(1)), Runtime)


def test_settings_that_do_not_fit() -> None:
    for options, config, problem in (
        (FlowOptions(engine="tensorrt"), LARGE, "engine of the flow"),  # type: ignore[arg-type]
        (FlowOptions(arithmetic="float8"), LARGE, "arithmetic of the flow"),  # type: ignore[arg-type]
        (FlowOptions(engine="onnxruntime", arithmetic="bfloat16"), LARGE, "no bfloat16"),
        (FlowOptions(engine="openvino"), MaskedDiffConfig(), "V3 models only"),
    ):
        with pytest.raises(ConfigError, match=problem):
            flow_engine(options, config, Bundle(), Runtime(1))


@needs_openvino
def test_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    quantised = Bundle(stages={"flow": "int8"}, files=WITH_GRAPHS)
    for native in (True, False):
        monkeypatch.setattr("cosyvoice.native.flow_engine.multiplies_bfloat16", lambda native=native: native)
        chosen = flow_engine(FlowOptions(), LARGE, quantised, Runtime(1))
        assert isinstance(chosen, OpenVINO if native else Runtime)
        asked = flow_engine(FlowOptions(engine="openvino"), LARGE, quantised, Runtime(1))
        assert isinstance(asked, OpenVINO) and asked.arithmetic == ("bfloat16" if native else "float32")
    monkeypatch.setattr("cosyvoice.native.flow_engine.multiplies_bfloat16", lambda: True)
    exact = flow_engine(FlowOptions(engine="openvino"), LARGE, Bundle(files=WITH_GRAPHS), Runtime(1))
    assert isinstance(exact, OpenVINO) and exact.arithmetic == "float32"
    for config, bundle in (
        (LARGE, Bundle(files=WITH_GRAPHS)),
        (CONFIG, quantised),
        (LARGE, quantised.model_copy(update={"files": {}})),
        (MaskedDiffConfig(), quantised),
    ):
        assert isinstance(flow_engine(FlowOptions(), config, bundle, Runtime(1)), Runtime)
    assert isinstance(multiplies_bfloat16(), bool)
