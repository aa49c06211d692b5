"""Conversion of the small released-layout model; what the stages compute from it is tested with the stages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import cosyvoice
from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.bundle import BUNDLE_FILE, read_bundle
from cosyvoice.engine.stages import MelChunk
from cosyvoice.errors import ConfigError, ModelError, OutputError
from cosyvoice.export import bundle as conversion
from cosyvoice.export.bundle import convert
from cosyvoice.native.loading import load_native_model
from cosyvoice.reference.loading import load_reference_model

MODEL = Path(__file__).parents[1] / "data" / "parity" / "v3" / "model"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "fp32"
    convert(MODEL, out)
    return out


def test_the_record_says_how_it_was_made(converted: Path) -> None:
    record = read_bundle(converted)
    assert record.precision == "fp32" and record.released and record.source == "model"
    assert set(record.source_digest) == {"llm.pt", "flow.pt", "hift.pt"}
    assert record.made_by == cosyvoice.__version__
    assert {"llm.onnx", "flow.onnx", "vocoder.onnx", "llm.safetensors", "config.json"} <= set(record.files)


def test_single_precision_costs_nothing(converted: Path) -> None:
    quality = read_bundle(converted).quality
    assert abs(quality["llm_kl"]) < 1e-6
    assert quality["flow_mel_error"] < 1e-4
    assert quality["vocoder_snr"] > 60


def test_weights_are_there_once_and_under_their_names(converted: Path) -> None:
    source = load_state_dict(MODEL / "flow.pt")
    weights = load_file(converted / "flow.safetensors")
    assert set(weights) == set(source)
    assert all(np.array_equal(weights[name], source[name].numpy()) for name in weights)
    graphs = [path.stat().st_size for path in converted.glob("*.onnx") if path.name not in ("campplus.onnx",)]
    assert max(graphs) < 300_000
    assert not list((converted / "CosyVoice-BlankEN").glob("*.safetensors"))


def test_a_bundle_runs_on_both_engines(converted: Path) -> None:
    native, reference = load_native_model(converted, threads=1), load_reference_model(converted, threads=1)
    assert native.stages.description["backend"] == "native"
    assert native.stages.description["precision"] == "fp32"
    mel = np.random.default_rng(0).normal(-6, 2, (12, native.config.mel.n_mels)).astype(np.float32)
    samples = []
    for model in (native, reference):
        vocoder = model.stages.vocoder
        samples.append(vocoder.step(MelChunk(mel, finalize=True), vocoder.init_state())[0])
    np.testing.assert_allclose(samples[0], samples[1], atol=1e-3)


@pytest.mark.parametrize("precision", ["int8", "int4", "mixed"])
def test_quantised_bundles(tmp_path: Path, converted: Path, precision: str) -> None:
    record = convert(MODEL, tmp_path / "small", precision)  # type: ignore[arg-type]
    assert record.precision == precision
    assert 1e-7 < record.quality["llm_kl"] < 0.5
    assert record.quality["flow_mel_error"] < (0.5 if record.stages["flow"] == "int8" else 5e-3)
    assert record.quality["vocoder_snr"] > 60
    names = set(load_file(tmp_path / "small" / "llm.safetensors"))
    assert any(name.endswith(".q") for name in names)
    assert record.files["llm.safetensors"] < read_bundle(converted).files["llm.safetensors"]
    with pytest.raises(ModelError, match="native engine alone"):
        load_reference_model(tmp_path / "small")
    with pytest.raises(ModelError, match="quantised already"):
        convert(tmp_path / "small", tmp_path / "again")


def test_a_bundle_can_be_converted_again(tmp_path: Path, converted: Path) -> None:
    record = convert(converted, tmp_path / "again")
    assert record.released
    first, second = (load_file(folder / "hift.safetensors") for folder in (converted, tmp_path / "again"))
    assert set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no precision"):
        convert(MODEL, tmp_path / "out", "int3")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="does not exist"):
        convert(tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not an empty directory"):
            convert(MODEL, tmp_path / "full", overwrite=overwrite)
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "build_vocoder", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(MODEL, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_truncated_bundles_are_refused(tmp_path: Path, converted: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(converted, broken)
    weights = (broken / "flow.safetensors").read_bytes()
    (broken / "flow.safetensors").write_bytes(weights[:-100])
    with pytest.raises(ModelError, match="truncated"):
        load_native_model(broken)
    # A record that was tampered with does not help: the graph points behind the end of the file.
    record = json.loads((broken / BUNDLE_FILE).read_text())
    record["files"] = {}
    (broken / BUNDLE_FILE).write_text(json.dumps(record))
    with pytest.raises(ModelError):
        load_native_model(broken)
