"""Who is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

import cosyvoice.benchmark.contenders as contenders
import cosyvoice.export.bundle as bundle
from cosyvoice.benchmark.contenders import check_engines, check_precisions, find_field
from cosyvoice.config.bundle import read_bundle
from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.native.flow import NativeFlowStage


@dataclass
class Converter:
    """Stands for `convert`: copies the model under another precision."""

    calls: list[str] = field(default_factory=list)

    def __call__(self, source, out, precision, overwrite, progress, measure=False):
        assert not measure
        self.calls.append(precision)
        out.mkdir(exist_ok=True)
        for file in source.iterdir():
            (out / file.name).write_bytes(file.read_bytes())
        record = read_bundle(source).model_copy(update={"precision": precision})
        (out / "bundle.json").write_text(record.model_dump_json())


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> Converter:
    made = Converter()
    monkeypatch.setattr(bundle, "convert", made)
    return made


def test_the_reference_comes_first_and_a_bundle_is_taken_as_it_is(random_model, tmp_path, converter):
    found = find_field(random_model, check_precisions(random_model, ["int8", "fp32"]), tmp_path)
    assert [c.name for c in found.contenders] == ["reference", "int8", "fp32"]
    assert found.baseline == "reference" and [c.name for c in found.native] == ["int8", "fp32"]
    assert found.contenders[2].directory == random_model and converter.calls == ["int8"]


def test_every_precision_with_each_engine(random_model, tmp_path):
    found = find_field(random_model, ["fp32"], tmp_path, engines=check_engines(["openvino", "onnxruntime"]))
    assert [c.name for c in found.native] == ["fp32 openvino", "fp32"]
    steps = find_field(random_model, ["fp32"], tmp_path, engines=["onnxruntime"], steps=[None, 4], guided_until=0.5)
    assert [c.name for c in steps.native] == ["fp32 guided to 0.5", "fp32 4 steps guided to 0.5"]
    flow = steps.native[1].load(1).model.stages.flow
    assert isinstance(flow, NativeFlowStage) and len(flow.plan.steps) == 4
    assert flow.plan.guided == (True, True, True, False)
    assert found.native[1].load(1).model.stages.description["precision"] == "fp32"
    assert check_engines([]) == ["onnxruntime"]
    with pytest.raises(ConfigError, match="'tensorrt'; choose from onnxruntime"):
        check_engines(["tensorrt"])


def test_a_conversion_is_used_again_until_its_source_changes(random_model, tmp_path, converter):
    model = tmp_path / "model"
    converter(random_model, model, "fp32", False, None)
    for _ in range(2):
        find_field(model, ["int8"], tmp_path)
    assert converter.calls == ["fp32", "int8"]
    weights = model / "llm.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    find_field(model, ["int8"], tmp_path)
    assert converter.calls == ["fp32", "int8", "int8"]


def test_without_a_precision_that_of_the_bundle_is_measured(random_model):
    assert check_precisions(random_model, []) == ["fp32"]
    assert check_precisions(random_model, ["int8", "int8"]) == ["int8"]


def test_an_unknown_precision_is_refused(random_model):
    with pytest.raises(ConfigError, match="'int3'; choose from fp32"):
        check_precisions(random_model, ["int3"])


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError):
        check_precisions(tmp_path, [])


def test_a_quantised_bundle_has_no_reference_and_no_other_precision(random_model, tmp_path, converter):
    quantised = tmp_path / "quantised"
    converter(random_model, quantised, "int8", False, None)
    assert check_precisions(quantised, []) == ["int8"]
    with pytest.raises(ConfigError, match="in int8, which cannot become fp32"):
        check_precisions(quantised, ["fp32"])
    found = find_field(quantised, ["int8"], tmp_path)
    assert found.baseline == "int8" and "quantised" in found.notes[0]


def test_without_pytorch_a_note_says_so(random_model, tmp_path, monkeypatch):
    monkeypatch.setattr(contenders, "torch_available", lambda: False)
    found = find_field(random_model, ["fp32"], tmp_path)
    assert [c.name for c in found.contenders] == ["fp32"] and "PyTorch is not installed" in found.notes[0]
    assert found.contenders[0].directory == Path(random_model)
