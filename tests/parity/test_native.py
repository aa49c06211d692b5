"""The native engine reproduces the record, and the checks notice when a weight, a record or a conversion is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from cosyvoice.errors import ConfigError
from cosyvoice.parity import native
from cosyvoice.parity.converted import INSIDE, Converted, inside
from cosyvoice.parity.golden import ParityFolder, Row, assert_parity
from cosyvoice.parity.run import run

FOLDER = ParityFolder(Path(__file__).parents[1] / "data" / "parity")
TOPICS = {"v3_llm", "v3_bistream", "ras", "v3_flow", "v3_flow_debug", "v3_hift", "v3_official_rng", "v3_e2e"}
GOLDEN = list((FOLDER.root / "golden").glob("*.safetensors"))
FED = ("ragged.", "mel", "token", "tokens", "embedding", "prompt_feat", "decode.source", "text", "forced", "logp")
"""What the names of recorded inputs begin or end with."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    converted = Converted(FOLDER, "v3", tmp_path_factory.mktemp("bundle"))
    return list(chain.from_iterable(check(converted) for check in native.CHECKS.values()))


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[..., ParityFolder]:
    """A folder with the usual model and copies of some topics."""

    def make(*topics: str) -> ParityFolder:
        (tmp_path / "golden").mkdir()
        for topic in topics:
            for path in (FOLDER.root / "golden").glob(f"{topic}.*"):
                shutil.copy(path, tmp_path / "golden")
        for name in ("v3", "wav"):
            (tmp_path / name).symlink_to(FOLDER.root / name, target_is_directory=True)
        return ParityFolder(tmp_path)

    return make


def change(folder: ParityFolder, topic: str, name: str, value: np.ndarray | None = None) -> None:
    """Put `value` in the place of a recorded tensor, or else move it a little."""
    path = folder.root / "golden" / f"{topic}.safetensors"
    tensors = load_file(path)
    tensors[name] = tensors[name] + np.float32(2e-3) if value is None else value
    save_file(tensors, path)


def failed(rows: list[Row]) -> set[tuple[str, str]]:
    return {(row.stage, row.tensor) for row in rows if not row.passed}


def test_every_row_is_within_tolerance(rows: list[Row]) -> None:
    assert_parity(rows)
    assert {row.stage for row in rows} == TOPICS


@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_the_earlier_generations_are_within_tolerance(generation: str, tmp_path: Path) -> None:
    converted = Converted(FOLDER, generation, tmp_path)
    rows = list(chain.from_iterable(check(converted) for check in native.CHECKS.values()))
    assert_parity(rows)
    expected = {topic.replace("v3", generation) for topic in TOPICS} & {path.stem for path in GOLDEN}
    assert {row.stage for row in rows} == expected


def test_what_the_stages_give_out_is_compared(rows: list[Row]) -> None:
    names = {(row.stage, row.tensor) for row in rows}
    expected = {
        "v3_llm": ("zero_shot.logp", "zero_shot.sampled", "sft_n_positions_fed", "instruct.lm_input"),
        "v3_bistream": ("no_prompt.logp", "prompt.yielded", "prompt_early_fill.calls", "prompt.past_len"),
        "v3_flow": ("offline_nofinal.mel", "offline_noprompt.mel", "stream_final.mel in 3 steps", "stream_chunk_t_fed"),
        "v3_hift": ("f0", "f0_nofinal", "source", "chunk13.wav", "chunk18.wav of one state", "wav of one state"),
        "v3_official_rng": ("rand_noise_tail", "sine_noise_head", "sine_noise_tail"),
        "v3_e2e": ("zero_shot_stream.out2", "vc.hift0.source", "sft.calls", "frontend.prompt_speech_feat"),
    }
    for topic, tensors in expected.items():
        for tensor in tensors:
            assert (topic, tensor) in names


def test_a_recorded_tensor_is_compared_or_left_out_or_fed(rows: list[Row]) -> None:
    for topic in TOPICS:
        recorded, hidden = set(FOLDER.topic(topic).tensors), inside(FOLDER, "v3", topic)
        compared = {row.tensor for row in rows if row.stage == topic}
        assert not hidden & compared
        assert all(name.startswith(FED) or name.endswith(FED) for name in recorded - compared - hidden)


def test_what_is_left_out_is_counted() -> None:
    left_out = native.left_out(FOLDER, ["v3"])
    assert set(left_out) == {topic.format("v3") for topic in INSIDE} - {"v3_llm"}
    assert left_out["v3_gan"] == len(FOLDER.topic("v3_gan").tensors) - 3
    assert left_out["v3_official_rng"] == 1
    assert native.left_out(FOLDER, []) == {}


def test_wrong_weights_fail(tmp_path: Path, folder_of: Callable[..., ParityFolder]) -> None:
    folder = folder_of("v3_llm", "v3_flow_debug", "v3_hift")
    (folder.root / "v3").unlink()
    model = folder.model_dir("v3")
    shutil.copytree(FOLDER.model_dir("v3"), model)
    spoiled = {
        "llm": "llm.model.model.layers.0.mlp.down_proj.weight",
        "flow": "decoder.estimator.transformer_blocks.1.attn.to_q.bias",
        "hift": "conv_post.bias",
    }
    for network, name in spoiled.items():
        weights = torch.load(model / f"{network}.pt", weights_only=True)
        weights[name] = weights[name] + 0.1
        torch.save(weights, model / f"{network}.pt")
    wrong = failed(run(folder, ["v3"], backend="native"))
    assert {("v3_llm", "zero_shot.logp"), ("v3_flow_debug", "run.mel"), ("v3_hift", "wav of one state")} <= wrong
    for intact in (("v3_llm", "zero_shot.lm_input"), ("v3_flow_debug", "run.t_span"), ("v3_hift", "source")):
        assert intact not in wrong


def test_a_changed_record_and_an_unknown_tensor_fail(folder_of: Callable[..., ParityFolder]) -> None:
    folder = folder_of("v3_flow_debug", "v3_hift")
    change(folder, "v3_flow_debug", "run.mel")
    change(folder, "v3_flow_debug", "run.surprise", np.zeros(2, np.float32))
    change(folder, "v3_hift", "chunk13.wav")
    rows = run(folder, ["v3"], backend="native")
    assert failed(rows) == {
        ("v3_flow_debug", "run.mel"),
        ("v3_flow_debug", "run.surprise"),
        ("v3_hift", "chunk13.wav"),
        ("v3_hift", "chunk13.wav of one state"),
    }


def test_a_model_that_cannot_be_converted_stops_the_stages_only(folder_of: Callable[..., ParityFolder]) -> None:
    folder = folder_of("ras", "v3_hift", "v3_flow")
    (folder.root / "v3").unlink()
    shutil.copytree(FOLDER.model_dir("v3"), folder.model_dir("v3"))
    (folder.model_dir("v3") / "flow.pt").write_bytes(b"nothing")
    rows = run(folder, ["v3"], backend="native")
    assert failed(rows) == {("v3_flow", "(check stopped)"), ("v3_hift", "(check stopped)")}
    assert {row.stage for row in rows} == {"ras", "v3_flow", "v3_hift"}
    assert all("flow.pt" in row.note for row in rows if not row.passed)


def test_other_backends_are_refused() -> None:
    with pytest.raises(ConfigError, match="'cuda'; choose one of reference, native"):
        run(FOLDER, ["v3"], backend="cuda")
