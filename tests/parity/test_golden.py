"""The comparison itself: what counts as equal, what fails, and what a failure says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from cosyvoice.errors import ModelError
from cosyvoice.parity.golden import ParityFolder, Row, assert_parity, compare, exact, worst

INF = float("inf")


def test_compare_takes_the_largest_difference() -> None:
    row = compare("s", "t", np.array([1.0, 2.0, -3.0]), np.array([1.0, 2.5, -3.25], np.float32), 0.4)
    assert (row.error, row.passed) == (0.5, False)
    assert compare("s", "t", [1.0, 2.0], np.array([1.0, 2.4]), 0.5).passed


def test_compare_takes_tensors_with_gradients() -> None:
    row = compare("s", "t", torch.ones(2, requires_grad=True), np.ones(2, np.float32))
    assert row == Row("s", "t", 0.0, 1e-4)


def test_compare_counts_integers_beyond_single_precision() -> None:
    assert compare("s", "t", np.array([2**24 + 1]), np.array([2**24])).error == 1.0


@pytest.mark.parametrize(
    ("ours", "recorded"),
    [
        ([np.nan, 0.0], [0.0, 0.0]),
        ([0.0, 0.0], [np.nan, 0.0]),
        ([np.nan, 0.0], [np.nan, 0.0]),
        ([np.inf, 0.0], [0.0, 0.0]),
        ([np.inf, 0.0], [-np.inf, 0.0]),
    ],
)
def test_what_is_not_finite_on_one_side_fails(ours: list[float], recorded: list[float]) -> None:
    assert compare("s", "t", np.array(ours), np.array(recorded), 1e9).error == INF


def test_equal_infinities_are_equal() -> None:
    blocked = np.array([-np.inf, -1.0])
    assert compare("s", "t", blocked, blocked.copy()).error == 0.0


def test_another_shape_fails_and_names_both() -> None:
    row = compare("s", "t", np.zeros((1, 2)), np.zeros(2))
    assert row.error == INF
    assert "(1, 2)" in row.note
    assert "(2,)" in row.note
    assert compare("s", "t", np.zeros((2, 0)), np.zeros((2, 0))).error == 0.0


def test_exact_looks_through_containers() -> None:
    assert exact("s", "t", (1, [2, 3]), [1, (2, 3)]).passed
    assert exact("s", "t", np.array([[1, 2]]), torch.tensor([[1, 2]])).passed
    assert exact("s", "t", [np.int64(4)], [4]).passed
    assert exact("s", "t", {"a": 1}, {"a": 1}, "note").note == "note"


def test_exact_fails_with_both_values_cut_short() -> None:
    row = exact("s", "t", "a" * 500, [1, 2])
    assert row.error == INF
    assert "aaa" in row.note
    assert "[1, 2]" in row.note
    assert len(row.note) < 200


def test_worst_is_relative_to_the_tolerance() -> None:
    rows = [
        Row("s", "loose", 5e-4, 1e-3),
        Row("s", "tight", 9e-5, 1e-4),
        Row("s", "exact", 0.0, 0.0),
    ]
    assert worst(rows).tensor == "tight"
    assert worst([*rows, Row("s", "ids", 1.0, 0.0)]).tensor == "ids"


def test_assert_parity_names_every_failure_worst_first() -> None:
    rows = [
        Row("a", "fine", 1e-5, 1e-4),
        Row("a", "bad", 2e-4, 1e-4),
        Row("b", "worse", INF, 1e-4, "shape"),
    ]
    with pytest.raises(AssertionError) as failure:
        assert_parity(rows)
    first, *lines = str(failure.value).split("\n")
    assert first == "2 of 3 tensors differ"
    assert [line.split(":")[0] for line in lines] == ["b worse", "a bad"]
    assert_parity(rows[:1])


def test_assert_parity_fails_for_an_empty_table() -> None:
    with pytest.raises(AssertionError, match="no tensor"):
        assert_parity(iter(()))


def test_a_topic_is_read_with_its_description(tmp_path: Path) -> None:
    golden = tmp_path / "golden"
    golden.mkdir()
    save_file({"x": np.arange(3)}, golden / "v3_llm.safetensors")
    folder = ParityFolder(tmp_path)
    assert folder.has("v3_llm")
    assert folder.topic("v3_llm").meta == {}
    (golden / "v3_llm.meta.json").write_text(json.dumps({"options": {"seed": 1}}))
    topic = folder.topic("v3_llm")
    assert topic.meta["options"] == {"seed": 1}
    assert "x" in topic
    assert topic["x"].tolist() == [0, 1, 2]


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    folder = ParityFolder(tmp_path)
    with pytest.raises(ModelError, match=r"v3_llm\.safetensors does not exist"):
        folder.topic("v3_llm")
    (tmp_path / "golden" / "v3_llm.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="damaged"):
        folder.topic("v3_llm")
    with pytest.raises(ModelError, match=r"v3_text\.json cannot be read"):
        folder.json("v3_text")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ModelError, match=r"manifest\.json cannot be read"):
        _ = folder.manifest
