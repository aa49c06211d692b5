"""What was recorded of the vocoder of the first two generations, on the native engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.released import read_model_config
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.hift_graph import build_hift
from cosyvoice.export.vocoder_graph import fold_weight_norm
from cosyvoice.parity.converted import Converted
from cosyvoice.parity.golden import ParityFolder, assert_parity
from cosyvoice.parity.native_hift import check

FOLDER = ParityFolder(Path(__file__).parents[1] / "data" / "parity")


class VocoderOnly(Converted):
    """A bundle of nothing but the vocoder and the configuration."""

    @property
    def bundle(self) -> Path:  # type: ignore[override]
        directory, out = self.folder.model_dir(self.generation), self._directory
        config = read_model_config(directory)
        weights = {name: value.numpy() for name, value in load_state_dict(directory / "hift.pt").items()}
        folded = {name: np.ascontiguousarray(value) for name, value in fold_weight_norm(weights).items()}
        save_file(folded, out / "hift.safetensors")
        (out / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
        build_hift(TensorFile(out / "hift.safetensors"), config.hift, out)
        return out


@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_every_recorded_tensor_is_reproduced(generation: str, tmp_path: Path) -> None:
    rows = list(check(VocoderOnly(FOLDER, generation, tmp_path)))
    assert_parity(rows)
    assert {row.tensor for row in rows} == {"f0", "source", "wav", "cache.source", "cache.wav"}
