from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cosyvoice.checkpoint.weights import read_weights, write_weights
from cosyvoice.errors import ModelError, OutputError


def test_half_on_disk_single_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "new" / "flow.safetensors"
    weight = torch.linspace(-1, 1, 7).reshape(7, 1)
    write_weights(path, {"w": weight, "ids": torch.arange(3)}, {"step": "12"})
    weights, metadata = read_weights(path)
    assert metadata == {"step": "12"}
    assert weights["w"].dtype == torch.float32 and torch.equal(weights["w"], weight.half().float())
    assert weights["ids"].dtype == torch.int64
    assert read_weights(path, dtype=None)[0]["w"].dtype == torch.float16
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_tied_and_strided_tensors_are_written(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    write_weights(tmp_path / "w.safetensors", {"a": base, "b": base, "c": base.T}, dtype=torch.float32)
    weights, _ = read_weights(tmp_path / "w.safetensors")
    assert torch.equal(weights["a"], weights["b"]) and torch.equal(weights["c"], base.T)


@pytest.mark.parametrize(("value", "message"), [(1e6, "beyond the range"), (float("nan"), "not finite")])
def test_values_that_would_be_lost_are_refused_and_the_old_file_stays(
    tmp_path: Path, value: float, message: str
) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, {"w": torch.ones(2)})
    with pytest.raises(ModelError, match=message):
        write_weights(path, {"w": torch.tensor([value])})
    assert torch.equal(read_weights(path)[0]["w"], torch.ones(2))


def test_unreadable_and_unwritable(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is missing"):
        read_weights(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"garbage garbage garbage")
    with pytest.raises(ModelError, match="no intact safetensors"):
        read_weights(tmp_path / "w.safetensors")
    with pytest.raises(OutputError, match="cannot be written"):
        write_weights(tmp_path / "w.safetensors" / "inner", {"w": torch.ones(1)})
