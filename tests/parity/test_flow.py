from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cosyvoice.errors import ModelError
from cosyvoice.parity import flow as stage
from cosyvoice.parity.golden import ParityFolder, Row, Topic, assert_parity

FOLDER = ParityFolder(Path(__file__).parents[1] / "data" / "parity")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(stage.check(FOLDER))


def test_every_recorded_tensor_is_reproduced(rows: list[Row]) -> None:
    assert_parity(rows)


def test_all_topics_take_part(rows: list[Row]) -> None:
    reported = {(row.stage, row.tensor) for row in rows}
    assert {stage for stage, _ in reported} == {"v3_flow", "v3_flow_debug", "v3_flow_train"}
    for tensor in ("stream_chunk.mel", "offline_noprompt.est_last.out", "rand_noise_head"):
        assert ("v3_flow", tensor) in reported
    assert ("v3_flow_debug", "est.transformer_blocks.1") in reported
    assert ("v3_flow_train", "run1.loss") in reported


def test_a_tensor_that_nobody_reproduces_fails() -> None:
    topic = FOLDER.topic("v3_flow_debug")
    tensors = {**topic.tensors, "est.unknown_module": np.zeros(2, np.float32)}
    folder = _Patched(FOLDER.root, Topic(topic.name, tensors, topic.meta))
    failed = [row.tensor for row in stage.check(folder) if not row.passed]
    assert failed == ["est.unknown_module"]


def test_wrong_weights_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = stage.load_flow(FOLDER, "v3")
    with torch.no_grad():
        flow.decoder.estimator.transformer_blocks[1].attn.to_q.bias += 0.1
    monkeypatch.setattr(stage, "load_flow", lambda *_: flow)
    failed = {row.tensor for row in stage.check(FOLDER) if not row.passed}
    assert {"offline_prompt.mel", "est.transformer_blocks.1", "ragged.out_streaming1", "run0.pred"} <= failed
    assert "est.transformer_blocks.0" not in failed


def test_other_generations_are_refused() -> None:
    with pytest.raises(ModelError, match="flow for v3 only"):
        list(stage.check(FOLDER, "v2"))


class _Patched(ParityFolder):
    """A folder with one topic, taken from memory."""

    def __init__(self, root: Path, topic: Topic) -> None:
        super().__init__(root)
        object.__setattr__(self, "_topic", topic)

    def has(self, topic: str) -> bool:
        return topic == self._topic.name

    def topic(self, name: str) -> Topic:
        return self._topic
