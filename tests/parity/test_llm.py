"""The language model reproduces every recorded tensor, and the check notices when it does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.parity.golden import ParityFolder, assert_parity
from cosyvoice.parity.llm import check, load_llm

FOLDER = Path(__file__).parents[1] / "data" / "parity"
TOPICS = {
    "v1": {"v1_llm", "v1_llm_train", "ras"},
    "v2": {"v2_llm", "v2_llm_train", "v2_bistream", "ras"},
    "v3": {"v3_llm", "v3_llm_train", "v3_bistream", "ras"},
}


ONLY_IN = {
    "v1": {"zero_shot.text_encoder_out", "instruct.lm_input"},
    "v2": {"dpo.chosen_logps", "dpo.rejected_logps", "dpoloss.ipo.loss", "bistream_layout"},
    "v3": {"eop_id", "prompt.calls"},
}
"""Some of what a generation has and others have not, or not so."""


@pytest.mark.parametrize("generation", TOPICS)
def test_every_recorded_tensor_is_reproduced(generation: str) -> None:
    rows = list(check(ParityFolder(FOLDER), generation))
    assert_parity(rows)
    assert {row.stage for row in rows} == TOPICS[generation]
    assert ONLY_IN[generation] <= {row.tensor for row in rows}


@pytest.fixture
def writable(tmp_path: Path) -> Path:
    """A folder with the model and the topic `v3_llm` only, which a test may spoil."""
    (tmp_path / "golden").mkdir()
    for name in ("v3_llm.safetensors", "v3_llm.meta.json"):
        shutil.copy(FOLDER / "golden" / name, tmp_path / "golden" / name)
    (tmp_path / "v3").symlink_to(FOLDER / "v3", target_is_directory=True)
    return tmp_path


def test_a_tensor_that_nothing_reproduces_fails(writable: Path) -> None:
    path = writable / "golden" / "v3_llm.safetensors"
    save_file({**load_file(path), "zero_shot.surprise": np.zeros(3, dtype=np.float32)}, path)
    failed = [row.tensor for row in check(ParityFolder(writable)) if not row.passed]
    assert failed == ["zero_shot.surprise"]


def test_a_changed_record_fails(writable: Path) -> None:
    path = writable / "golden" / "v3_llm.safetensors"
    tensors = load_file(path)
    tensors["sft.logp"] = tensors["sft.logp"] + np.float32(1e-3)
    save_file(tensors, path)
    assert [row.tensor for row in check(ParityFolder(writable)) if not row.passed] == ["sft.logp"]


def test_recorded_length_ratios_are_used(writable: Path) -> None:
    path = writable / "golden" / "v3_llm.meta.json"
    meta = json.loads(path.read_text())
    meta["options"]["min_ratio"] = 0
    path.write_text(json.dumps(meta))
    failed = [row.tensor for row in check(ParityFolder(writable)) if not row.passed]
    assert {"zero_shot.eos_masked", "sft.eos_masked", "instruct.eos_masked"} <= set(failed)


def test_unknown_generation_is_refused() -> None:
    with pytest.raises((ModelError, ConfigError), match="v4"):
        load_llm(ParityFolder(FOLDER), "v4")
