from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import cosyvoice
from cosyvoice.checkpoint.weights import read_weights, write_weights
from cosyvoice.engine.guard import Guard
from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.streaming import StreamingConfig
from cosyvoice.errors import ConfigError, ModelError, TextError
from cosyvoice.reference.loading import load_reference_model


@pytest.fixture(scope="module")
def released(released_model_dir: Path) -> TTS:
    return cosyvoice.load(released_model_dir, threads=1)


@pytest.fixture
def copy(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "copy"))


def test_our_own_layout_is_ready_to_run(tiny_tts: TTS) -> None:
    stages = tiny_tts.model.stages
    assert tiny_tts.model.config.name == "tiny"
    assert stages.description["backend"] == "reference"
    for network in (stages.llm.model, stages.flow.model, stages.vocoder.model):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any("parametrizations" in name for name in stages.vocoder.model.state_dict())


def test_a_released_directory_speaks(released: TTS, reference_wav: Path) -> None:
    guard = Guard(retries=0)
    voice = released.clone(reference_wav)
    assert released.say("Hello world, 12 tests.", voice, seed=1, guard=guard).duration > 0.05
    whispered = released.say("Hello world.", voice, seed=1, guard=guard, instruct="Whisper.")
    assert whispered.duration > 0.02
    chunks = list(released.stream("你好，世界。", voice, seed=2, guard=guard))
    assert sum(len(chunk.samples) for chunk in chunks) > 0


def test_files_that_are_missing_are_named(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_reference_model(tmp_path / "none")
    with pytest.raises(ModelError, match="no model directory"):
        load_reference_model(tmp_path)
    for name in ("hift.safetensors", "flow.safetensors", "llm.safetensors", "config.json"):
        (copy / name).unlink()
        with pytest.raises(ModelError, match=name if name != "config.json" else "no model directory"):
            load_reference_model(copy)


def test_damaged_weights_are_named(copy: Path) -> None:
    path = copy / "flow.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"flow\.safetensors is no intact"):
        load_reference_model(copy)


def test_the_unused_head_may_be_left_out(copy: Path) -> None:
    weights, _ = read_weights(copy / "llm.safetensors")
    weights.pop("llm.model.lm_head.weight", None)
    write_weights(copy / "llm.safetensors", weights)
    load_reference_model(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("llm_decoder.weight"), "lacks 'llm_decoder.weight'"),
        (lambda w: w.update(extra=torch.zeros(1)), "holds the unknown 'extra'"),
        (lambda w: w.update({"llm_decoder.weight": torch.zeros(3, 16)}), r"has the shape \(3, 16\)"),
    ],
)
def test_weights_of_another_model_are_refused(
    copy: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    weights, _ = read_weights(copy / "llm.safetensors")
    change(weights)
    write_weights(copy / "llm.safetensors", weights)
    with pytest.raises(ModelError, match=message):
        load_reference_model(copy)


def test_settings_that_cannot_work(tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="0 threads"):
        load_reference_model(tiny_model_dir, threads=0)
    with pytest.raises(ConfigError, match="device 'nonsense'"):
        load_reference_model(tiny_model_dir, device="nonsense")


def test_scripts_are_checked_before_any_compute(released: TTS) -> None:
    with pytest.raises(TextError, match="never saw"):
        released.say("مرحبا")


def test_a_prompt_encoder_may_be_missing_until_it_is_needed(copy: Path, reference_wav: Path) -> None:
    (copy / "campplus.onnx").unlink()
    tts = cosyvoice.load(copy, threads=1)
    assert tts.say("Hello.", seed=1, streaming=StreamingConfig()).duration > 0
    with pytest.raises(ModelError, match=r"campplus\.onnx is missing"):
        tts.clone(reference_wav)
