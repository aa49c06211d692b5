from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import cosyvoice
from cosyvoice.checkpoint.model_inspection import NETWORKS, inspect_path
from cosyvoice.errors import ModelError
from cosyvoice.export.bundle import convert
from cosyvoice.reference.networks import expected_shapes

EMBEDDED_MODEL = Path(cosyvoice.__file__).parent / "pretrained" / "mini"
MODELS = Path(__file__).parents[1] / "data" / "parity"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return shutil.copytree(MODELS / "v2" / "model", tmp_path / "model")


@pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
def test_released_directories_are_whole(generation: str) -> None:
    report = inspect_path(MODELS / generation / "model", expected_shapes)
    assert (report.kind, report.generation, report.problems) == ("released model", generation, [])
    compared = {file.name for file in report.files if file.mismatch is not None}
    assert compared == {"llm.pt", "flow.pt", "hift.pt"}
    assert {file.network for file in report.files} == {"", "llm", "flow", "hift"}


def test_missing_files_are_problems(model: Path) -> None:
    (model / "hift.pt").unlink()
    (model / "campplus.onnx").unlink()
    (model / "CosyVoice-BlankEN" / "merges.txt").unlink()
    problems = inspect_path(model, expected_shapes).problems
    assert len(problems) == 3
    for name in ("hift.pt", "campplus.onnx", "merges.txt"):
        assert any(f"{name} is missing" in problem for problem in problems)


def test_weights_of_another_generation_are_problems(model: Path) -> None:
    shutil.copy(MODELS / "v3" / "model" / "flow.pt", model / "flow.pt")
    problems = inspect_path(model, expected_shapes).problems
    assert "flow.pt looks like the flow of generation v3, the configuration is of v2" in problems[0]
    assert any("lacks" in problem for problem in problems) and any("unknown" in problem for problem in problems)


def test_swapped_and_variant_files(model: Path) -> None:
    shutil.copy(model / "llm.pt", model / "llm.rl.pt")
    report = inspect_path(model, expected_shapes)
    assert report.problems == []
    assert next(file for file in report.files if file.name == "llm.rl.pt").mismatch is not None
    shutil.copy(model / "llm.pt", model / "flow.pt")
    assert any("flow.pt looks like the llm; give" in problem for problem in inspect_path(model).problems)


def test_hostile_and_damaged_files_are_problems(model: Path) -> None:
    (model / "llm.pt").write_bytes(b"PK")
    problems = inspect_path(model, expected_shapes).problems
    assert len(problems) == 1 and "llm.pt is damaged" in problems[0]


def test_single_files_are_compared_with_the_configuration_beside_them(model: Path) -> None:
    report = inspect_path(model / "flow.pt", expected_shapes)
    assert report.kind == "file" and report.files[0].mismatch is not None and report.problems == []
    shutil.copy(MODELS / "v2" / "model" / "flow.pt", model.parent)
    assert inspect_path(model.parent / "flow.pt", expected_shapes).files[0].mismatch is None


def test_a_bundle_is_known() -> None:
    report = inspect_path(EMBEDDED_MODEL, expected_shapes)
    assert {file.name for file in report.files if file.mismatch is not None} == {f"{n}.safetensors" for n in NETWORKS}
    assert (report.kind, report.precision, report.problems) == ("bundle", "fp32", [])


@pytest.mark.parametrize(("generation", "precision"), [("v1", "int4"), ("v2", "mixed"), ("v3", "fp32"), ("v3", "int8")])
def test_bundles_are_compared_under_the_names_that_they_stand_for(
    tmp_path: Path, generation: str, precision: Any
) -> None:
    bundle = tmp_path / "bundle"
    convert(MODELS / generation / "model", bundle, precision, measure=False)
    report = inspect_path(bundle, expected_shapes)
    assert report.problems == [] and all(file.mismatch is not None for file in report.files if file.network)
    weights = load_file(bundle / "llm.safetensors")
    gone = next(name for name in sorted(weights, reverse=True) if name.endswith((".q", "layernorm.weight")))
    kept = {name: value for name, value in weights.items() if name != gone}
    save_file({**kept, "head.extra": np.zeros(3, np.float32)}, bundle / "llm.safetensors")
    mismatch = inspect_path(bundle / "llm.safetensors", expected_shapes).files[0].mismatch
    assert mismatch is not None and mismatch.missing == (gone.removesuffix(".q"),)
    assert "head.extra" in mismatch.foreign
    if gone.endswith(".q"):
        reshaped = {**weights, gone: weights[gone][:-1].copy()}
        save_file(reshaped, bundle / "llm.safetensors")
        mismatch = inspect_path(bundle / "llm.safetensors", expected_shapes).files[0].mismatch
        assert mismatch is not None and mismatch.misshapen == (gone.removesuffix(".q"),)


def test_what_is_nothing_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing this version knows"):
        inspect_path(tmp_path)
    with pytest.raises(ModelError, match="does not exist"):
        inspect_path(tmp_path / "absent")
