from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cosyvoice.checkpoint.released import load_spk2info
from cosyvoice.checkpoint.speakers import read_speakers, write_speakers
from cosyvoice.errors import ModelError, OutputError

PARITY = Path(__file__).parents[1] / "data" / "parity"


@pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
def test_speakers_come_back_with_their_names(tmp_path: Path, generation: str) -> None:
    released = load_spk2info(PARITY / generation / "model" / "spk2info.pt")
    speakers = {name: {key: item.numpy() for key, item in entries.items()} for name, entries in released.items()}
    speakers["中文女 ../x"] = {"embedding": np.ones((1, 192), np.float32)}
    write_speakers(tmp_path / "speakers.safetensors", speakers)
    back = read_speakers(tmp_path / "speakers.safetensors")
    assert list(back) == list(speakers)
    for name, entries in speakers.items():
        assert back[name].keys() == entries.keys()
        for key, value in entries.items():
            assert back[name][key].dtype == value.dtype
            np.testing.assert_array_equal(back[name][key], value)


def test_other_files(tmp_path: Path) -> None:
    save_file({"7.embedding": np.ones(2)}, tmp_path / "a", {"speakers": '["one"]'})
    save_file({"embedding": np.ones(2)}, tmp_path / "b")
    for name in "ab":
        with pytest.raises(ModelError, match="no table of speakers"):
            read_speakers(tmp_path / name)
    with pytest.raises(OutputError, match="cannot be written"):
        write_speakers(tmp_path / "none" / "c", {"one": {"embedding": np.ones(2)}})
