from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from cosyvoice.checkpoint.released import load_spk2info, load_state_dict, weights_path, write_spk2info
from cosyvoice.errors import ModelError, OutputError

MODEL = Path(__file__).parents[1] / "data" / "parity" / "v3" / "model"


@pytest.mark.parametrize("name", ["llm", "flow", "hift"])
def test_released_files_load_unchanged(name: str) -> None:
    weights = load_state_dict(MODEL / f"{name}.pt")
    raw = torch.load(MODEL / f"{name}.pt", weights_only=True)
    assert weights.keys() == raw.keys()
    assert all(torch.equal(weights[key], raw[key]) for key in raw)


def test_training_checkpoint_is_brought_to_the_released_form(tmp_path: Path) -> None:
    path = tmp_path / "hift.pt"
    one, two = torch.ones(2, 1), torch.zeros(2, 3)
    entries = {
        "generator.up.weight_g": one,
        "generator.up.weight_v": two,
        "discriminator.x": one,
        "epoch": 3,
        "step": 7,
    }
    torch.save(entries, path)
    weights = load_state_dict(path)
    assert list(weights) == ["up.parametrizations.weight.original0", "up.parametrizations.weight.original1"]
    assert torch.equal(weights["up.parametrizations.weight.original1"], two)


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": _Hostile()}, "more than tensors"),
        ({"a": {"b": torch.ones(1)}}, "not a tensor"),
        ([torch.ones(1)], "no table"),
        ({"epoch": 1}, "holds no weights"),
        ({"x.weight_g": torch.ones(1), "x.parametrizations.weight.original0": torch.ones(1)}, "twice"),
    ],
)
def test_bad_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "bad.pt")
    with pytest.raises(ModelError, match=message):
        load_state_dict(Path("bad.pt"))
    assert not Path("ran").exists()


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is missing"):
        load_state_dict(tmp_path / "llm.pt")
    for content in (b"", b"not a checkpoint", (MODEL / "flow.pt").read_bytes()[:1000]):
        (tmp_path / "llm.pt").write_bytes(content)
        with pytest.raises(ModelError, match="damaged"):
            load_state_dict(tmp_path / "llm.pt")


def test_speakers(tmp_path: Path) -> None:
    speakers = load_spk2info(MODEL / "spk2info.pt")
    assert speakers["中文女"]["embedding"].shape == (1, 192)
    assert speakers["my_zero_shot_spk"]["prompt_speech_feat"].shape[2] == 80
    torch.save({"name": torch.ones(1)}, tmp_path / "spk2info.pt")
    with pytest.raises(ModelError, match="'name' is not a table"):
        load_spk2info(tmp_path / "spk2info.pt")


def test_speakers_are_written_as_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "spk2info.pt"
    speakers = load_spk2info(MODEL / "spk2info.pt")
    arrays = {name: {key: item.numpy() for key, item in entries.items()} for name, entries in speakers.items()}
    for _ in range(2):  # a file that is there is replaced
        write_spk2info(path, arrays)
        again = load_spk2info(path)
        assert list(again) == list(speakers)
        for name, entries in speakers.items():
            assert entries.keys() == again[name].keys()
            assert all(torch.equal(item, again[name][key]) and item.dtype == again[name][key].dtype
                       for key, item in entries.items())  # fmt: skip
    assert [item.name for item in tmp_path.iterdir()] == ["spk2info.pt"]
    with pytest.raises(OutputError, match="cannot be written"):
        write_spk2info(tmp_path / "absent" / "spk2info.pt", arrays)


def test_variants_lie_beside_the_weights(tmp_path: Path) -> None:
    for name in ("llm.pt", "llm.rl.pt"):
        (tmp_path / name).touch()
    assert weights_path(tmp_path, "llm") == tmp_path / "llm.pt"
    assert weights_path(tmp_path, "llm", "rl") == tmp_path / "llm.rl.pt"
    with pytest.raises(ModelError, match=r"llm\.dpo\.pt is missing; there are llm\.pt, llm\.rl\.pt"):
        weights_path(tmp_path, "llm", "dpo")
    with pytest.raises(ModelError, match=r"flow\.pt is missing; copy the complete"):
        weights_path(tmp_path, "flow")
