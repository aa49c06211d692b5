"""The model that comes with the package: its size, its voices, and that it says what it is told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import cosyvoice
from cosyvoice.engine.pipeline import TTS
from cosyvoice.evaluation.recogniser import PocketSphinx
from cosyvoice.evaluation.wer import corpus_rate, word_errors

LARGEST = 40 * 2**20
"""Bytes of all weights and voices together."""
SENTENCES = (
    "Please open the window before you go to bed.",
    "The old man told us a story about the sea.",
    "It will probably rain before we get home.",
)


@pytest.fixture(scope="module")
def tts() -> TTS:
    return cosyvoice.load()


def test_the_model_is_small_and_documented() -> None:
    files = [path for path in Path(cosyvoice.DEFAULT_MODEL).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST
    card = (cosyvoice.DEFAULT_MODEL / "README.md").read_text()
    for word in ("licence", "hours", "WER", "limits"):
        assert word.lower() in card.lower(), word


def test_there_are_women_and_men_among_the_voices(tts: TTS) -> None:
    voices = [tts.voice(name) for name in tts.store.preset_names()]
    genders = Counter(voice.gender for voice in voices)
    assert genders["female"] >= 2 and genders["male"] >= 2
    assert all(voice.provenance and voice.consent and voice.transcript for voice in voices)


def test_it_says_what_it_is_told_and_stops(tts: TTS) -> None:
    recogniser = PocketSphinx()
    errors = []
    for sentence in SENTENCES:
        speech = tts.say(sentence, voice="ryan", seed=1)
        assert 1.0 < speech.duration < 6.0
        assert np.abs(speech.samples).max() > 0.05
        heard = recogniser.transcribe(speech.samples, speech.sample_rate)
        errors.append(word_errors(sentence, heard))
    rate = corpus_rate(errors)
    # Noise, silence or speech of other words gives 0.9 and more.
    assert rate is not None and rate <= 0.4


def test_every_voice_speaks(tts: TTS) -> None:
    for name in tts.store.preset_names():
        speech = tts.say("Good morning.", voice=name, seed=1)
        assert 0.4 < speech.duration < 3.0, name
        assert not speech.report.doubtful, name
