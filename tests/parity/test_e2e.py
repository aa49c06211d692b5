"""The whole system reproduces the record, and the check notices when a part of it changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cosyvoice.engine import models
from cosyvoice.engine.stages import TokenChunk
from cosyvoice.parity.e2e import check
from cosyvoice.parity.golden import ParityFolder, Row, assert_parity
from cosyvoice.parity.observation import Calls
from cosyvoice.parity.observed_model import Seeds, load_reference

FOLDER = Path(__file__).parents[1] / "data" / "parity"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(check(ParityFolder(FOLDER)))


@pytest.fixture
def writable(tmp_path: Path) -> Path:
    """The model, the recordings, and a copy of the topic that a test may change."""
    (tmp_path / "golden").mkdir()
    for name in ("v3_e2e.safetensors", "v3_e2e.meta.json"):
        shutil.copy(FOLDER / "golden" / name, tmp_path / "golden" / name)
    for name in ("v3", "wav"):
        (tmp_path / name).symlink_to(FOLDER / name, target_is_directory=True)
    return tmp_path


def keep_cases(root: Path, *cases: str) -> None:
    """Drop the other requests from the description, which spares the time that they take."""
    path = root / "golden" / "v3_e2e.meta.json"
    meta = json.loads(path.read_text())
    for name in [name for name, value in meta["options"].items() if isinstance(value, dict) and "calls" in value]:
        if name not in cases:
            del meta["options"][name]
    path.write_text(json.dumps(meta))


def failed(root: Path) -> set[str]:
    return {row.tensor for row in check(ParityFolder(root)) if not row.passed}


def test_every_recorded_tensor_is_reproduced(rows: list[Row]) -> None:
    assert_parity(rows)
    recorded = set(ParityFolder(FOLDER).topic("v3_e2e").tensors) - {"forced_tokens"}
    assert recorded <= {row.tensor for row in rows}


@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_the_earlier_generations_are_reproduced(generation: str) -> None:
    rows = list(check(ParityFolder(FOLDER), generation))
    assert_parity(rows)
    names = {row.tensor for row in rows}
    assert set(ParityFolder(FOLDER).topic(f"{generation}_e2e").tensors) - {"forced_tokens"} <= names
    for case in ("zero_shot", "zero_shot_speed1.2", "sft", "zero_shot_stream", "vc"):
        assert {f"{case}.calls", f"{case}.chunk_samples"} <= names


def test_all_modes_and_descriptions_take_part(rows: list[Row]) -> None:
    names = {row.tensor for row in rows}
    for case in ("zero_shot", "zero_shot_speed1.2", "sft", "zero_shot_stream", "vc"):
        assert {f"{case}.calls", f"{case}.chunk_samples", f"{case}.n_chunks"} <= names
    for mode in ("zero_shot", "cross_lingual", "instruct2"):
        assert f"frontend_keys.{mode}" in names
    assert "token_hop_len_after_stream" in names


def test_a_waveform_that_leaves_the_record_is_judged_from_the_recorded_mel(
    writable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_cases(writable, "sft", "vc")
    path = writable / "golden" / "v3_e2e.safetensors"
    kept = ("sft", "vc", "forced")
    save_file({name: value for name, value in load_file(path).items() if name.startswith(kept)}, path)

    def disturbed(directory: Path, calls: Calls, seeds: Seeds) -> models.CosyVoiceModel:
        model = load_reference(directory, calls, seeds)
        flow, step = model.stages.flow, model.stages.flow.step

        def moved(chunk: TokenChunk, state: object) -> object:
            mel, state = step(chunk, state)
            return mel + np.float32(5e-5), state

        monkeypatch.setattr(flow, "step", moved)
        return model

    rows = {row.tensor: row for row in check(ParityFolder(writable), load=disturbed) if ".out" in row.tensor}
    assert rows.keys() == {"sft.out0", "vc.out0"}
    for row in rows.values():
        assert row.passed, row
        assert row.error < 1e-5
        assert 1e-3 < float(row.note.removesuffix(" from our own mel")) < 1


def test_requests_and_tensors_that_nobody_reproduces_fail(writable: Path) -> None:
    keep_cases(writable, "sft")
    path = writable / "golden" / "v3_e2e.safetensors"
    tensors = load_file(path)
    dropped = ("zero_shot", "vc.")
    tensors = {name: value for name, value in tensors.items() if not name.startswith(dropped)}
    extra = {"sft.flow1.token": np.zeros((1, 2), np.int32), "singing.out0": np.zeros((1, 2), np.float32)}
    save_file({**tensors, **extra}, path)
    assert failed(writable) == set(extra)


def test_a_changed_waveform_and_mel_fail(writable: Path) -> None:
    keep_cases(writable, "sft", "zero_shot", "zero_shot_speed1.2", "vc")
    path = writable / "golden" / "v3_e2e.safetensors"
    tensors = load_file(path)
    tensors = {name: value for name, value in tensors.items() if "stream" not in name}
    tensors["sft.out0"] = tensors["sft.out0"] + np.float32(2e-3)
    tensors["vc.flow0.mel"] = tensors["vc.flow0.mel"] + np.float32(2e-4)
    tensors["frontend.text"] = tensors["frontend.text"] + 1
    save_file(tensors, path)
    # The mel of `zero_shot` was not touched, nor that of `vc` beyond the record: its waveform is from our own.
    assert failed(writable) == {
        "sft.out0",
        "vc.flow0.mel",
        "frontend.text",
        "zero_shot.llm.text",
        "zero_shot_speed1.2.llm.text",
        "sft.llm.text",
    }


def test_thinning_of_silent_tokens_and_the_schedule_are_judged(writable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_cases(writable, "zero_shot_stream")
    path = writable / "golden" / "v3_e2e.safetensors"
    save_file({name: value for name, value in load_file(path).items() if "stream" in name or "forced" in name}, path)
    monkeypatch.setattr(models, "thin_out_runs", lambda tokens, thinned, longest: tokens)
    assert {"zero_shot_stream.flow2.token", "zero_shot_stream.calls"} <= failed(writable)
    monkeypatch.undo()
    monkeypatch.setattr(models.CosyVoice3Model, "lookahead", property(lambda model: 5))
    wrong = failed(writable)
    assert {"zero_shot_stream.flow0.token", "zero_shot_stream.chunk_samples"} <= wrong
