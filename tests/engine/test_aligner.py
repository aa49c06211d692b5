"""The aligner of the package on the package's own voices: there is no other trained one to test with."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import cosyvoice
from cosyvoice.engine.aligner import Aligner, PhoneRecogniser
from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.speech import Report, Speech
from cosyvoice.errors import AudioError, ModelError, TextError


class _Recogniser(PhoneRecogniser):
    """Tells for every frame which 20 ms of the samples it looked at."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def _hear(self, samples: np.ndarray) -> np.ndarray:
        self.heard.append(len(samples))
        return samples[: len(samples) // 320 * 320 : 320, None].repeat(40, 1)


@pytest.mark.parametrize("tokens", [3, 100, 1499, 1500, 1501, 1539, 1541, 4600])
def test_long_audio_is_heard_in_blocks_without_a_seam(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recognise = _Recogniser()
    frames = recognise(np.arange(tokens * 640, dtype=np.float64))
    np.testing.assert_array_equal(frames[:, 0], np.arange(2 * tokens) * 320)
    assert max(recognise.heard) <= (1500 + 3 * 40) * 640


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"speech_tokenizer\.onnx is missing"):
        Aligner(PhoneRecogniser(tmp_path))(np.zeros(24000, np.float32), 24000, "Hello.")


@pytest.mark.parametrize(
    ("samples", "text", "message"),
    [
        (np.zeros((24000, 2), np.float32), "Hello.", "average the channels"),
        (np.full(24000, np.nan, np.float32), "Hello.", "finite"),
        (np.zeros(2400, np.float32), "Hello, hello, hello.", "room for"),
        (np.zeros(3602, np.float32), "Hello.", "cut it and the text"),
    ],
)
def test_audio_that_cannot_be_aligned(samples: np.ndarray, text: str, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        Aligner()(samples, 1 if len(samples) == 3602 else 24000, text)


def test_text_that_cannot_be_aligned() -> None:
    with pytest.raises(TextError, match="English text only"):
        Aligner()(np.zeros(24000, np.float32), 24000, "你好")


def test_words_of_the_small_model_are_where_it_pauses(tiny_tts: TTS) -> None:
    """A pause of two seconds put between two sentences must lie between their words."""
    tts = cosyvoice.load(threads=1)
    first = tts.say("Please open the window.", seed=1)
    second = tts.say("It is raining outside.", seed=1)
    silence = np.zeros(2 * tts.sample_rate, np.float32)
    joined = np.concatenate([first.samples, silence, second.samples])
    speech = Speech(joined, tts.sample_rate, Report(1, tts.sample_rate))
    words = tiny_tts.align(speech, speech.sample_rate, "Please open the window. It is raining outside.")
    assert [word.word for word in words] == ["Please", "open", "the", "window.", "It", "is", "raining", "outside."]
    assert all(word.start < word.end for word in words)
    assert all(a.end <= b.start for a, b in itertools.pairwise(words))
    assert words[3].end <= first.duration + 0.05
    assert words[4].start >= first.duration + 2.0 - 0.05
    assert words[-1].end <= speech.duration
    assert min(word.score for word in words) > 0.3
    other = tts.align(joined, tts.sample_rate, "Nobody knew what happened to the small brown horse.")
    assert np.mean([word.score for word in other]) < 0.5 < np.mean([word.score for word in words])
