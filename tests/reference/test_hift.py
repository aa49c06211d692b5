"""The reference's stage of overlapping chunks against what the released pipeline gave for the same mel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.released import read_model_config
from cosyvoice.engine.stages import MelChunk
from cosyvoice.hifigan.generator import HiFTGenerator
from cosyvoice.parity.drawn_noise import RecordedDraws
from cosyvoice.parity.golden import F0_TOLERANCE, ParityFolder, Topic
from cosyvoice.reference.hift import TorchHiFTStage

FOLDER = ParityFolder(Path(__file__).parents[1] / "data" / "parity")


def vocoder(generation: str) -> HiFTGenerator:
    directory = FOLDER.model_dir(generation)
    generator = HiFTGenerator(read_model_config(directory).hift)
    generator.load_state_dict(load_state_dict(directory / "hift.pt"))
    return generator


def released_stage(generation: str, topic: Topic) -> TorchHiFTStage:
    generator, seed = vocoder(generation), topic.meta["options"]["seeds"]["hift"]
    return TorchHiFTStage(generator, 1, "released", lambda: RecordedDraws(generator.config, seed))


@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_streamed_samples_are_the_recorded_ones(generation: str) -> None:
    topic = FOLDER.topic(f"{generation}_e2e")
    stage = released_stage(generation, topic)
    state, count = stage.init_state(), topic.meta["options"]["zero_shot_stream"]["n_chunks"]
    joint = stage.networks.model.config.joint_frames  # type: ignore[attr-defined]
    for index in range(count):
        # The record has the frames of the overlap in front of every chunk but the first.
        mel = topic[f"zero_shot_stream.hift{index}.mel"][0].T[joint if index else 0 :]
        samples, state = stage.step(MelChunk(mel, finalize=index == count - 1), state)
        np.testing.assert_allclose(samples[None], topic[f"zero_shot_stream.out{index}"], atol=F0_TOLERANCE)


@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_one_call_is_the_recorded_utterance(generation: str) -> None:
    topic = FOLDER.topic(f"{generation}_e2e")
    stage = released_stage(generation, topic)
    mel = topic["zero_shot_speed1.2.hift0.mel"][0].T
    samples, _ = stage.step(MelChunk(mel, finalize=True), stage.init_state())
    np.testing.assert_allclose(samples[None], topic["zero_shot_speed1.2.out0"], atol=F0_TOLERANCE)


@pytest.mark.parametrize("compat", ["corrected", "released"])
def test_the_same_request_gives_the_same_samples(compat: Any) -> None:
    stage = TorchHiFTStage(vocoder("v1"), 1, compat)
    mel = np.random.default_rng(0).standard_normal((70, 80)).astype(np.float32)

    def speak() -> np.ndarray:
        state, pieces = stage.init_state(), []
        for begin, end in ((0, 30), (30, 70)):
            samples, state = stage.step(MelChunk(mel[begin:end], end == 70), state)
            pieces.append(samples)
        return np.concatenate(pieces)

    np.testing.assert_array_equal(speak(), speak())
