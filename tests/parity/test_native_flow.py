"""What was recorded of the flow of the first two generations, on the native engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.released import read_model_config
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.unet_flow_graph import build_causal_masked_diff, build_masked_diff
from cosyvoice.native.causal_masked_diff import NativeCausalMaskedDiffStage
from cosyvoice.native.runtime import Runtime
from cosyvoice.parity.converted import inside
from cosyvoice.parity.flow_cases import ESTIMATOR_INPUTS
from cosyvoice.parity.golden import ParityFolder, Row, assert_parity
from cosyvoice.parity.native_flow import check_causal, check_causal_debug, check_overlapped
from cosyvoice.parity.report import Report

FOLDER = ParityFolder(Path(__file__).parents[1] / "data" / "parity")
Change = Callable[[dict[str, np.ndarray]], None]


def rows(generation: str, directory: Path, change: Change = lambda weights: None) -> list[Row]:
    """Rows of both topics, from a bundle of nothing but the flow."""
    model = FOLDER.model_dir(generation)
    config = read_model_config(model).flow
    weights = {name: tensor.numpy().copy() for name, tensor in load_state_dict(model / "flow.pt").items()}
    change(weights)
    save_file(weights, directory / "flow.safetensors")
    tensors = TensorFile(directory / "flow.safetensors")
    cases, debug = (Report(FOLDER.topic(f"{generation}_{name}")) for name in ("flow", "flow_debug"))
    debug.inputs.update(f"ragged.{name}" for name in ESTIMATOR_INPUTS)
    if config.kind == "masked_diff":
        build_masked_diff(tensors, config, directory)
        check_overlapped(cases, directory, config)
        check_overlapped(debug, directory, config)
    else:
        assert config.kind == "causal_masked_diff"
        build_causal_masked_diff(tensors, config, directory)
        stage = NativeCausalMaskedDiffStage(directory, config, Runtime(1))
        check_causal(cases, stage)
        check_causal_debug(debug, stage)
    return [row for report in (cases, debug) for row in report.finish(inside(FOLDER, generation, report.topic.name))]


@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_every_recorded_tensor_is_reproduced(generation: str, tmp_path: Path) -> None:
    measured = rows(generation, tmp_path)
    assert_parity(measured)
    names = {row.tensor for row in measured}
    expected = {
        "v1": {"stream.chunk1.cache_in", "stream.chunk1.cache_out", "stream.chunk1.mel", "stream.mel in 2 steps"},
        "v2": {"stream_chunk.mel in 2 steps", "stream_final.mel in 3 steps", "rand_noise_head", "rand_noise_shape"},
    }
    assert expected[generation] | {"offline_prompt.mel", "run.mel", "run_t_fed"} <= names


def test_wrong_weights_fail(tmp_path: Path) -> None:
    def change(weights: dict[str, np.ndarray]) -> None:
        weights["encoder.encoders.0.self_attn.linear_pos.weight"] *= 1.5

    failed = {row.tensor for row in rows("v1", tmp_path, change) if not row.passed}
    assert {"offline_prompt.mel", "stream.chunk0.cache_out", "stream.mel in 2 steps", "run.mel"} <= failed
