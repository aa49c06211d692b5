"""A text-to-speech system, a recogniser and a speaker encoder that cost nothing.

The fake system writes text and speaker into the samples: a tone whose frequency is the speaker's, as long as the
text. The fake recogniser knows the text by the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cosyvoice.audio.io import read_audio
from cosyvoice.errors import GenerationError
from cosyvoice.evaluation.sources import Audio

RATE = 24000
SENTENCES = ("One two three four five.", "Here is a longer sentence to say.")
FREQUENCIES = {"rms": 110.0, "slt": 220.0, "anna": 330.0}


def tone(frequency: float, seconds: float) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    fade = np.clip(np.minimum(np.arange(len(t)), np.arange(len(t))[::-1]) / 1200, 0, 1) ** 2
    return (0.3 * np.sin(2 * np.pi * frequency * t) * fade).astype(np.float32)


def seconds_of(text: str) -> float:
    return 0.05 * len(text)


@dataclass
class FakeReport:
    rtf: float = 0.5
    time_to_first_audio: float = 0.1
    retries: int = 0


@dataclass
class FakeSpeech:
    samples: np.ndarray
    report: FakeReport
    sample_rate: int = RATE

    @property
    def duration(self) -> float:
        return len(self.samples) / self.sample_rate


@dataclass
class FakeTTS:
    """`faults` maps (voice, text) to what goes wrong."""

    faults: dict[tuple[str, str], str] = field(default_factory=dict)
    calls: list[tuple[str, str, int]] = field(default_factory=list)
    frequencies: dict[str, float] = field(default_factory=lambda: dict(FREQUENCIES))

    def voices(self) -> list[str]:
        return list(FREQUENCIES)

    def clone(self, reference: Path, transcript: str, *, name: str) -> str:
        samples, rate = read_audio(reference)
        self.frequencies[name] = float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))
        return name

    def say(self, text: str, voice: str, *, seed: int) -> FakeSpeech:
        self.calls.append((voice, text, seed))
        fault = self.faults.get((voice, text), "")
        if fault == "error":
            raise GenerationError("nothing usable; say it in other words")
        samples = tone(self.frequencies[voice], {"long": 31.0, "empty": 0.0}.get(fault, seconds_of(text)))
        if fault == "nan":
            samples[100] = np.nan
        return FakeSpeech(samples, FakeReport(retries=2 if fault == "retry" else 0))


class FakeRecogniser:
    name = "fake 1"

    def __init__(self, texts: Sequence[str] = SENTENCES) -> None:
        self.texts = {round(seconds_of(text), 2): text for text in texts}
        self.calls = 0

    def transcribe(self, samples: np.ndarray, sample_rate: int) -> str:
        self.calls += 1
        return self.texts.get(round(len(samples) / sample_rate, 2), "something else").upper()


class FakeSources:
    names = ("rms", "slt")
    missing = ""

    def speak(self, name: str, texts: Sequence[str]) -> list[Audio | None]:
        return [Audio(tone(FREQUENCIES[name], seconds_of(text)), RATE) for text in texts]


class NoSources(FakeSources):
    names = ()
    missing = "not all original synthesisers are installed: apt-get install flite"


def embed(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Two values that turn with the frequency of a tone."""
    frequency = np.abs(np.fft.rfft(samples)).argmax() * sample_rate / len(samples)
    return np.array([np.cos(frequency / 400), np.sin(frequency / 400)], np.float32)


@pytest.fixture
def fakes() -> SimpleNamespace:
    """All of the above, for tests."""
    return SimpleNamespace(
        tts=FakeTTS(),
        recogniser=FakeRecogniser(),
        sources=FakeSources(),
        no_sources=NoSources(),
        embed=embed,
        tone=tone,
        seconds_of=seconds_of,
        sentences=SENTENCES,
        rate=RATE,
    )
