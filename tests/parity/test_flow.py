from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cosyvoice.parity import flow as stage
from cosyvoice.parity.golden import ParityFolder, Row, Topic, assert_parity

FOLDER = ParityFolder(Path(__file__).parents[1] / "data" / "parity")


@pytest.fixture(scope="module", params=["v1", "v2", "v3"])
def rows(request: pytest.FixtureRequest) -> list[Row]:
    return list(stage.check(FOLDER, request.param))


def test_every_recorded_tensor_is_reproduced(rows: list[Row]) -> None:
    assert_parity(rows)


COMMON = {("flow_train", "run1.loss"), ("flow_debug", "ragged.out_streaming0"), ("flow", "offline_prompt.mel")}
PARTS = {
    "v1": {
        ("flow", "stream.chunk1.cache_in"),
        ("flow", "stream.chunk1.noise"),
        ("flow_debug", "enc.length_regulator.model"),
        ("flow_debug", "est.up_blocks.0.2"),
    },
    "v2": {
        ("flow", "stream_chunk.mel"),
        ("flow", "rand_noise_head"),
        ("flow_debug", "enc.encoder.up_encoders.3"),
        ("flow_debug", "ragged.out_streaming1"),
    },
    "v3": {
        ("flow", "stream_chunk.mel"),
        ("flow", "offline_noprompt.est_last.out"),
        ("flow", "rand_noise_head"),
        ("flow_debug", "est.transformer_blocks.1"),
    },
}


def test_all_topics_take_part(rows: list[Row]) -> None:
    generation = rows[0].stage[:2]
    reported = {(row.stage.removeprefix(f"{generation}_"), row.tensor) for row in rows}
    assert {topic for topic, _ in reported} == {"flow", "flow_debug", "flow_train"}
    assert COMMON | PARTS[generation] <= reported


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


def test_wrong_weights_of_a_unet_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = stage.load_flow(FOLDER, "v1")
    with torch.no_grad():
        flow.length_regulator.model[1].bias += 0.1
    monkeypatch.setattr(stage, "load_flow", lambda *_: flow)
    failed = {row.tensor for row in stage.check(FOLDER, "v1") if not row.passed}
    assert {"offline_prompt.mu", "stream.chunk1.mel", "stream.chunk1.cache_in", "run0.mu", "run.mel"} <= failed
    assert not {"offline_prompt.noise", "enc.encoder_proj", "ragged.out_streaming0"} & failed


class _Patched(ParityFolder):
    """A folder with one topic, taken from memory."""

    def __init__(self, root: Path, topic: Topic) -> None:
        super().__init__(root)
        object.__setattr__(self, "_topic", topic)

    def has(self, topic: str) -> bool:
        return topic == self._topic.name

    def topic(self, name: str) -> Topic:
        return self._topic
