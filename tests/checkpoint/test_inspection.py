from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cosyvoice.checkpoint.inspection import check_weights, inspect_file
from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.checkpoint.speakers import write_speakers
from cosyvoice.errors import ModelError
from cosyvoice.voice.voice import Voice

MODEL = Path(__file__).parents[1] / "data" / "parity" / "v2" / "model"


def test_released_weights() -> None:
    report = inspect_file(MODEL / "flow.pt")
    weights = load_state_dict(MODEL / "flow.pt")
    assert (report.kind, report.network, report.generation, report.precision) == ("weights", "flow", "v2", "F32")
    assert report.tensors == len(weights) and report.parameters == sum(w.numel() for w in weights.values())
    assert report.size == (MODEL / "flow.pt").stat().st_size and report.mismatch is None


def test_training_checkpoints_and_their_discriminators(tmp_path: Path) -> None:
    weights = {f"generator.{key}": value for key, value in load_state_dict(MODEL / "hift.pt").items()}
    torch.save({**weights, "discriminator.x": torch.zeros(1), "epoch": 3, "step": 700}, tmp_path / "hift.pt")
    report = inspect_file(tmp_path / "hift.pt")
    assert (report.kind, report.network, report.generation) == ("training checkpoint", "hift", "v2")
    assert report.notes == {"epoch": "3", "step": "700"} and report.tensors == len(weights)


def test_precisions_are_counted(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(30, dtype=torch.float16), "b": torch.zeros(10)}, tmp_path / "w.safetensors")
    assert inspect_file(tmp_path / "w.safetensors").precision == "F16 75%, F32 25%"


def test_speakers(tmp_path: Path) -> None:
    expected = {"中文女": "embedding", "my_zero_shot_spk": "saved reference"}
    assert inspect_file(MODEL / "spk2info.pt").notes == expected
    write_speakers(tmp_path / "s.safetensors", {"ann": {"embedding": np.zeros((1, 4), np.float32)}})
    report = inspect_file(tmp_path / "s.safetensors")
    assert (report.kind, report.notes) == ("speakers", {"ann": "embedding"})


def test_voices(tmp_path: Path) -> None:
    voice = Voice("ann", np.zeros(3, np.int32), np.zeros((6, 80), np.float32), np.ones(4, np.float32), model="m")
    report = inspect_file(voice.save(tmp_path / "ann.safetensors"))
    assert (report.kind, report.tensors, report.notes) == ("voice", 3, {"name": "ann", "model": "m"})


def test_names_are_compared_with_those_of_a_configuration() -> None:
    report = inspect_file(MODEL / "llm.pt", {"llm": {"llm_decoder.weight": (153, 32), "other": (1,)}})
    assert report.mismatch is not None
    assert report.mismatch.missing == ("other",) and report.mismatch.misshapen == ()
    assert "llm_decoder.bias" in report.mismatch.foreign


def test_weights_that_do_not_fit_are_refused_before_they_are_loaded(tmp_path: Path) -> None:
    shapes = {name: tuple(weight.shape) for name, weight in load_state_dict(MODEL / "flow.pt").items()}
    check_weights(MODEL / "flow.pt", shapes, "v2")
    save_file(load_state_dict(MODEL / "flow.pt"), tmp_path / "flow.safetensors")
    check_weights(tmp_path / "flow.safetensors", shapes, "v2")
    with pytest.raises(ModelError, match="looks like the flow of generation v1, the configuration beside it is of v2"):
        check_weights(MODEL.parents[1] / "v1" / "model" / "flow.pt", shapes, "v2")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.gguf", "a.onnx", "a.txt", "a"])
def test_what_is_nothing_known_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        inspect_file(tmp_path / name)
    (tmp_path / name).write_text("some text that is nothing")
    with pytest.raises(ModelError, match=r"damaged|no intact|no ONNX graph|nothing this version knows"):
        inspect_file(tmp_path / name)


def test_onnx_graphs() -> None:
    assert inspect_file(MODEL / "campplus.onnx").kind == "ONNX graph"
