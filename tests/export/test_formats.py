"""Conversions among the four forms, with the small directories of all three generations."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from cosyvoice.checkpoint.gguf_file import Blocks, numbers
from cosyvoice.checkpoint.released import load_spk2info, load_state_dict
from cosyvoice.config.bundle import read_bundle
from cosyvoice.config.released import read_model_config
from cosyvoice.errors import ConfigError, ModelError, OutputError
from cosyvoice.export import formats
from cosyvoice.export.bundle import NETWORKS, Source
from cosyvoice.export.formats import convert_model, detect_format, read_network, unfold_weight_norm
from cosyvoice.export.quantise import dequantise
from cosyvoice.export.vocoder_graph import fold_weight_norm
from cosyvoice.native.loading import load_native_model

PARITY = Path(__file__).parents[1] / "data" / "parity"
GENERATIONS = ("v1", "v2", "v3")


def _model(generation: str) -> Path:
    return PARITY / generation / "model"


def _numbers(directory: Path, network: str) -> dict[str, np.ndarray]:
    return {name: numbers(tensor) for name, tensor in read_network(Source.open(directory), network).items()}


def _same(first: Path, second: Path) -> None:
    for network in NETWORKS:
        ours, theirs = _numbers(first, network), _numbers(second, network)
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("through", ["safetensors", "gguf"])
def test_a_released_directory_comes_back_bit_by_bit(tmp_path: Path, generation: str, through: Any) -> None:
    model = _model(generation)
    precision = "fp32" if through == "gguf" else None
    made = convert_model(model, tmp_path / "there", through, precision)
    assert detect_format(tmp_path / "there") == through == made.format and made.size > 0
    convert_model(tmp_path / "there", tmp_path / "back", "pt")
    assert read_model_config(tmp_path / "back") == read_model_config(model)
    for network in NETWORKS:
        expected, state = (
            torch.load(folder / f"{network}.pt", weights_only=True) for folder in (model, tmp_path / "back")
        )
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in expected)
    expected_speakers, speakers = (load_spk2info(folder / "spk2info.pt") for folder in (model, tmp_path / "back"))
    assert speakers.keys() == expected_speakers.keys()
    for name, entries in expected_speakers.items():
        assert all(torch.equal(entries[key], speakers[name][key]) for key in entries)
    for path in model.rglob("*"):
        copy = tmp_path / "back" / path.relative_to(model)
        assert copy.exists(), path.name
        if path.is_file() and path.suffix not in (".pt", ".safetensors"):
            assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()


def test_the_text_model_of_the_released_layout_is_written_again(tmp_path: Path) -> None:
    convert_model(_model("v3"), tmp_path / "there", "safetensors")
    convert_model(tmp_path / "there", tmp_path / "back", "pt")
    body = load_file(tmp_path / "back" / "CosyVoice-BlankEN" / "model.safetensors")
    expected = load_file(_model("v3") / "CosyVoice-BlankEN" / "model.safetensors")
    assert body.keys() == expected.keys()
    assert all(body[name].shape == expected[name].shape for name in body)


@pytest.mark.parametrize(("generation", "precision"), [("v1", "q4_0"), ("v2", "q8_0"), ("v3", "q4_0")])
def test_stored_blocks_survive_every_way(tmp_path: Path, generation: str, precision: str) -> None:
    convert_model(_model(generation), tmp_path / "first", "gguf", precision)
    for name, asked in (("kept", None), ("same", precision)):
        convert_model(tmp_path / "first", tmp_path / name, "gguf", asked)
        for network in NETWORKS:
            first, second = (read_network(Source.open(tmp_path / folder), network) for folder in ("first", name))
            for key, tensor in first.items():
                other = second[key]
                if isinstance(tensor, Blocks):
                    assert isinstance(other, Blocks) and tensor.type == other.type
                    np.testing.assert_array_equal(tensor.data, other.data)
    convert_model(tmp_path / "first", tmp_path / "plain", "safetensors")
    _same(tmp_path / "first", tmp_path / "plain")


@pytest.mark.parametrize(
    ("generation", "precision", "bits"), [("v1", "q8_0", 8), ("v2", "q4_0", 4), ("v3", "q8_0", 8), ("v3", "q4_0", 4)]
)
def test_a_bundle_runs_the_very_blocks(tmp_path: Path, generation: str, precision: str, bits: int) -> None:
    convert_model(_model(generation), tmp_path / "gguf", "gguf", precision)
    made = convert_model(tmp_path / "gguf", tmp_path / "bundle")
    assert made.precision == precision and made.quality["llm_kl"] < 0.02
    record = read_bundle(tmp_path / "bundle")
    assert record.stages == {"llm": precision, "flow": "fp32", "vocoder": "fp32"} and record.released
    assert record.precision == f"int{bits}" and record.source == "gguf"
    assert set(record.source_digest) == {path.name for path in (tmp_path / "gguf").glob("*.gguf")}
    assert len(record.source_digest) == (3 if generation == "v1" else 4)
    assert made.quality["vocoder_snr"] > 50, "half precision costs the vocoder nothing that is not in the source"
    stored = read_network(Source.open(tmp_path / "gguf"), "llm")
    weights = load_file(tmp_path / "bundle" / "llm.safetensors")
    blocks = {name: tensor for name, tensor in stored.items() if isinstance(tensor, Blocks) and f"{name}.q" in weights}
    assert len(blocks) == (2 * 6 + 1 if generation == "v1" else 2 * 7 + 1)
    for name, tensor in blocks.items():
        q, scales = weights[f"{name}.q"], weights[f"{name}.scales"]
        assert q.nbytes + scales.nbytes == tensor.data.nbytes
        np.testing.assert_array_equal(
            dequantise(q, scales.astype(np.float32), bits, tensor.shape[1]), tensor.numbers(), err_msg=name
        )
    assert load_native_model(tmp_path / "bundle", threads=1).stages.description["precision"] == record.precision
    assert {path.name for path in tmp_path.iterdir()} == {"gguf", "bundle"}, "nothing is left on the way"


def test_a_precision_that_is_asked_for_expands_the_blocks(tmp_path: Path) -> None:
    convert_model(_model("v3"), tmp_path / "gguf", "gguf", "q8_0")
    convert_model(tmp_path / "gguf", tmp_path / "bundle", "bundle", "fp32", measure=False)
    assert read_bundle(tmp_path / "bundle").precision == "fp32"
    stored = _numbers(tmp_path / "gguf", "llm")
    for name, array in _numbers(tmp_path / "bundle", "llm").items():
        np.testing.assert_array_equal(array, stored[name])


def test_a_bundle_becomes_a_released_directory_again(tmp_path: Path) -> None:
    convert_model(_model("v3"), tmp_path / "bundle", measure=False)
    convert_model(tmp_path / "bundle", tmp_path / "back", "pt")
    for network in ("llm", "flow"):
        expected, state = (
            torch.load(folder / f"{network}.pt", weights_only=True) for folder in (_model("v3"), tmp_path / "back")
        )
        assert all(torch.equal(state[name], expected[name]) for name in expected)
    # The norms of the vocoder were folded into its weights, and are taken apart again.
    original, back = (
        {name: tensor.numpy() for name, tensor in load_state_dict(folder / "hift.pt").items()}
        for folder in (_model("v3"), tmp_path / "back")
    )
    assert original.keys() == back.keys()
    assert all(original[name].shape == back[name].shape for name in original)
    folded, again = fold_weight_norm(original), fold_weight_norm(back)
    for name, weight in folded.items():
        np.testing.assert_allclose(again[name], weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("generation", "precision", "to"),
    [("v1", "int4", "pt"), ("v2", "mixed", "gguf"), ("v3", "int8", "safetensors"), ("v3", "int4", "bundle")],
)
def test_a_quantised_bundle_becomes_numbers(tmp_path: Path, generation: str, precision: str, to: Any) -> None:
    made = convert_model(_model(generation), tmp_path / "bundle", "bundle", precision, measure=False)
    assert made.rounded == ""
    weights = load_file(tmp_path / "bundle" / "llm.safetensors")
    back = convert_model(
        tmp_path / "bundle", tmp_path / "back", to, "fp32" if to == "gguf" else None, measure=to == "bundle"
    )
    assert f"llm {precision}" in back.rounded and "stay so" in back.rounded and "(model)" in back.rounded
    if to == "bundle":
        assert back.quality["llm_kl"] < 1e-5, "measured against the numbers that it was made from"
        assert read_bundle(tmp_path / "back").source == "bundle"
    for network in ("llm", "flow"):
        original, restored = _numbers(_model(generation), network), _numbers(tmp_path / "back", network)
        assert original.keys() == restored.keys()
        for name, value in restored.items():
            assert value.shape == original[name].shape
            off = np.abs(value - original[name]).max() / max(np.abs(original[name]).max(), 1e-9)
            assert off < 0.25, name
    quantised = [name.removesuffix(".q") for name in weights if name.endswith(".q")]
    restored = _numbers(tmp_path / "back", "llm")
    for name in quantised:
        q, scales = weights[f"{name}.q"], weights[f"{name}.scales"].astype(np.float32)
        inputs = restored[name].shape[1]
        # Of the formats here only that of four bits has 16 bytes a block or fewer in blocks of 32.
        bits = 4 if q.shape[1] * q.shape[2] < inputs else 8
        np.testing.assert_array_equal(restored[name], dequantise(q, scales, bits, inputs), err_msg=name)


def test_norms_of_other_networks_are_left_alone() -> None:
    weights = {"a.weight": np.ones((2, 3, 4), np.float32)}
    assert unfold_weight_norm(weights).keys() == weights.keys()


def test_our_own_models(tiny_model_dir: Path, tmp_path: Path) -> None:
    convert_model(tiny_model_dir, tmp_path / "gguf", "gguf", "fp16")
    assert not read_model_config(tmp_path / "gguf").released
    assert {path.name for path in (tmp_path / "gguf" / "voices").iterdir()} == {
        path.name for path in (tiny_model_dir / "voices").iterdir()
    }
    convert_model(tmp_path / "gguf", tmp_path / "back", "safetensors", "fp32")
    for network in NETWORKS:
        assert _numbers(tmp_path / "back", network).keys() == _numbers(tiny_model_dir, network).keys()
    with pytest.raises(ModelError, match="was not made from a released model"):
        convert_model(tiny_model_dir, tmp_path / "pt", "pt")
    assert not (tmp_path / "pt").exists()


def test_half_precision_and_released_noise_are_kept(tmp_path: Path) -> None:
    convert_model(_model("v3"), tmp_path / "half", "safetensors", "fp16")
    assert read_model_config(tmp_path / "half").released
    weights = load_file(tmp_path / "half" / "hift.safetensors")
    assert weights["conv_pre.bias"].dtype == np.float32
    assert weights["conv_pre.parametrizations.weight.original1"].dtype == np.float16
    exact = weights["f0_predictor.condnet.0.parametrizations.weight.original1"]
    assert exact.dtype == np.float32


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no format 'onnx'"):
        convert_model(_model("v3"), tmp_path / "out", "onnx")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no precision 'q8_0' of pt; choose one of fp32, fp16"):
        convert_model(_model("v3"), tmp_path / "out", "pt", "q8_0")
    with pytest.raises(ModelError, match="does not exist"):
        convert_model(tmp_path / "none", tmp_path / "out")
    with pytest.raises(ModelError, match="holds no model"):
        convert_model(PARITY, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(OutputError, match="not an empty directory"):
        convert_model(_model("v3"), tmp_path / "mine", "gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


def test_a_directory_that_lacks_a_file(tmp_path: Path) -> None:
    shutil.copytree(_model("v3"), tmp_path / "model")
    (tmp_path / "model" / "campplus.onnx").unlink()
    with pytest.raises(ModelError, match=r"campplus\.onnx is missing"):
        convert_model(tmp_path / "model", tmp_path / "out", "gguf")
    convert_model(_model("v3"), tmp_path / "gguf", "gguf")
    (tmp_path / "gguf" / "flow.gguf").unlink()
    with pytest.raises(ModelError, match=r"flow\.gguf is missing"):
        convert_model(tmp_path / "gguf", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "gguf"}


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "_write_pt", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert_model(_model("v1"), tmp_path / "out", "pt")
    assert list(tmp_path.iterdir()) == []
