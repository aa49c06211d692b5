"""The whole pipeline against the recording of the released command line, with the tokens that were forced there."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cosyvoice
from cosyvoice.audio.io import read_audio
from cosyvoice.engine.guard import Guard
from cosyvoice.engine.joining import Joining
from cosyvoice.engine.models import CosyVoice3Model, Prompt
from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.session import Request, Session
from cosyvoice.engine.speech import Report
from cosyvoice.engine.stages import FlowInput
from cosyvoice.engine.streaming import StreamingConfig
from cosyvoice.parity.golden import F0_TOLERANCE, TOLERANCE, ParityFolder, Topic

FOLDER = ParityFolder(Path(__file__).parents[1] / "data" / "parity")
LENIENT = Guard(retries=0, longest=1e4, shortest=0.0, repeated_seconds=1e4, silence_seconds=1e4)
UNTOUCHED = Joining(head=99, tail=99, fade=0)


class ForcedModel(CosyVoice3Model):
    """Says the tokens it was told instead of those of its language model."""

    forced: list[int]

    def generate(self, *_: Any) -> Generator[int, None, None]:
        yield from self.forced


@pytest.fixture(scope="module")
def released(released_model_dir: Path) -> TTS:
    return cosyvoice.load(released_model_dir, threads=1)


@pytest.fixture(scope="module")
def recording() -> Topic:
    return FOLDER.topic("v3_e2e")


def speak(
    released: TTS,
    recording: Topic,
    count: int | None,
    streaming: StreamingConfig | None,
    speed: float = 1.0,
    reference: bool = True,
) -> list[np.ndarray]:
    model = ForcedModel(released.model.config, released.model.stages)
    model.forced = recording["forced_tokens"].tolist()[:count]
    tokens = recording["frontend.flow_prompt_speech_token"][0].astype(np.int32)
    mel = recording["frontend.prompt_speech_feat"][0]
    embedding = recording["frontend.flow_embedding"][0]
    flow = FlowInput(tokens, mel, embedding) if reference else FlowInput(tokens[:0], mel[:0], embedding)
    text = [recording.meta["options"]["tts_text"]]
    request = Request(text, Prompt((), (), flow), 1, speed, streaming, LENIENT, UNTOUCHED)
    return [chunk.samples for chunk in Session(model, request, Report(1, 24000)).run()]


def test_reference_features(released: TTS, recording: Topic) -> None:
    samples, rate = read_audio(FOLDER.root / "wav" / "prompt_24k.wav")
    features = released.model.encode_reference(samples, rate)
    np.testing.assert_array_equal(features.speech_token, recording["frontend.flow_prompt_speech_token"][0])
    np.testing.assert_allclose(features.mel, recording["frontend.prompt_speech_feat"][0], atol=TOLERANCE)
    np.testing.assert_allclose(features.speaker_embedding, recording["frontend.flow_embedding"][0], atol=TOLERANCE)


def test_text_tokens(released: TTS, recording: Topic) -> None:
    frontend, options = released.model.stages.text, recording.meta["options"]
    assert frontend.encode_prompt(options["prompt_text"]) == recording["frontend.prompt_text"][0].tolist()
    pieces = frontend.split(options["tts_text"])
    assert [frontend.encode(piece) for piece in pieces] == [recording["frontend.text"][0].tolist()]


@pytest.mark.parametrize(("name", "speed"), [("zero_shot", 1.0), ("zero_shot_speed1.2", 1.2)])
def test_whole_utterances(released: TTS, recording: Topic, name: str, speed: float) -> None:
    count = recording.meta["options"]["n_forced_non_stream"]
    heard = np.concatenate(speak(released, recording, count, None, speed))
    np.testing.assert_allclose(heard, recording[f"{name}.out0"][0], atol=F0_TOLERANCE)


def test_streams_of_the_released_mode(released: TTS, recording: Topic) -> None:
    chunks = speak(released, recording, None, StreamingConfig(mode="released"))
    expected = [recording[f"zero_shot_stream.out{i}"][0] for i in range(3)]
    assert [len(chunk) for chunk in chunks] == [len(chunk) for chunk in expected]
    for ours, theirs in zip(chunks, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=F0_TOLERANCE)


def test_streams_of_the_consistent_mode_differ_from_it_in_the_last_chunk_only(released: TTS, recording: Topic) -> None:
    chunks = speak(released, recording, None, StreamingConfig())
    expected = [recording[f"zero_shot_stream.out{i}"][0] for i in range(3)]
    assert [len(chunk) for chunk in chunks] == [len(chunk) for chunk in expected]
    for ours, theirs in zip(chunks[:2], expected[:2], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=F0_TOLERANCE)
    assert np.abs(chunks[2] - expected[2]).max() > F0_TOLERANCE
