"""Every recorded tensor of the vocoder, its adversarial training and its random buffers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.parity.golden import ParityFolder, assert_parity
from cosyvoice.parity.hift import GAN_INPUTS, HIFT_INPUTS, check

ROOT = Path(__file__).parents[1] / "data" / "parity"


TOPICS = {"v1": ("v1_hift", "v1_gan"), "v2": ("v2_hift", "v2_gan"), "v3": ("v3_hift", "v3_gan", "v3_official_rng")}


@pytest.mark.parametrize("generation", TOPICS)
def test_every_recorded_tensor_is_reproduced(generation: str) -> None:
    folder = ParityFolder(ROOT)
    rows = list(check(folder, generation))
    assert_parity(rows)
    recorded = {(name, tensor) for name in TOPICS[generation] for tensor in folder.topic(name).tensors}
    inputs = {(f"{generation}_hift", name) for name in HIFT_INPUTS}
    inputs |= {(f"{generation}_gan", name) for name in GAN_INPUTS}
    assert {(row.stage, row.tensor) for row in rows} == recorded - inputs


def test_both_spellings_of_weight_norm_are_one_vocoder() -> None:
    newer = load_state_dict(ROOT / "v2" / "model" / "hift.pt")
    older = load_state_dict(ROOT / "v2" / "extra" / "hift.weight_g_v.pt")
    assert newer.keys() == older.keys()
    assert all(torch.equal(value, older[name]) for name, value in newer.items())


def test_unknown_and_changed_tensors_fail(tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    (tmp_path / "v3").symlink_to(ROOT / "v3")
    tensors = load_file(ROOT / "golden" / "v3_hift.safetensors")
    tensors["decode.conv_pre"] = tensors["decode.conv_pre"] + np.float32(0.01)
    tensors["decode.unheard_of"] = np.zeros(3, np.float32)
    save_file(tensors, tmp_path / "golden" / "v3_hift.safetensors")
    failed = {row.tensor for row in check(ParityFolder(tmp_path)) if not row.passed}
    assert failed == {"decode.conv_pre", "decode.unheard_of"}
