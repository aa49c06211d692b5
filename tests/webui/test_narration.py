"""Reading with a stand-in for the model: what is tested is the order of things, not speech."""

from __future__ import annotations

import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from cosyvoice.engine.alignment import WordTime
from cosyvoice.engine.speech import Report, Speech
from cosyvoice.errors import AudioError, OutputError, TextError
from cosyvoice.webui.documents import Chapter, Document
from cosyvoice.webui.narration import Narration, Progress, Settings, State, clock, summary

RATE = 8000


class _TTS:
    """A tenth of a second of sound a word; refuses what holds a '#'."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int]] = []
        self.gate = threading.Semaphore(10_000)
        self.model = SimpleNamespace(stages=SimpleNamespace(text=SimpleNamespace(split=self._split)))

    def _split(self, text: str) -> list[str]:
        if "#" in text:
            raise TextError("cannot read '#'")
        return [f"{part}." for part in text.strip().strip(".").split(". ")]

    def say(self, text: str, voice: Any, *, seed: int, speed: float, language: str | None) -> Speech:
        assert self.gate.acquire(timeout=10)
        if "#" in text:
            raise TextError("cannot read '#'")
        self.said.append((text, seed))
        return Speech(np.full(RATE // 10 * len(text.split()), 0.5, np.float32), RATE, Report(seed, RATE))

    def align(self, speech: Speech, sample_rate: int, text: str) -> list[WordTime]:
        if "long" in text:
            raise AudioError("no room")
        return [WordTime(word, i / 10, (i + 1) / 10, 1.0) for i, word in enumerate(text.split())]


BOOK = Document(
    "book", (Chapter("One", ("It began. So it did.", "And on.")), Chapter("Two", ("A long end. It # broke. Over.",)))
)


def read(tts: Any, tmp_path: Path, settings: Settings, document: Document = BOOK) -> Progress:
    narration = Narration(tts, document, settings, tmp_path)
    narration.start()
    return narration.wait(20)


def test_one_file_with_subtitles_in_its_time(tmp_path: Path) -> None:
    tts = _TTS()
    progress = read(tts, tmp_path, Settings(seed=5, audio_format="wav", subtitles="srt"))
    assert progress.state is State.DONE
    assert (progress.done, progress.total) == (6, 6)
    assert tts.said == [
        ("It began.", 5), ("So it did.", 6), ("And on.", 7), ("A long end.", 8), ("Over.", 10),
    ]  # fmt: skip
    assert len(progress.skipped) == 1 and "'It # broke.': cannot read '#'" in progress.skipped[0]
    assert [path.name for path in progress.files] == ["reading.srt", "reading.wav"]
    samples, rate = soundfile.read(tmp_path / "reading.wav")
    # Words, then pauses: sentence, paragraph, chapter, sentence.
    assert len(samples) / rate == pytest.approx(1.1 + 0.1 + 0.2 + 0.5 + 1.2 + 0.2, abs=0.15)
    cues = (tmp_path / "reading.srt").read_text().strip().split("\n\n")
    assert [cue.split("\n", 2)[2] for cue in cues] == ["It began.", "So it did.", "And on.", "A long end.", "Over."]
    assert cues[1].split("\n")[1].startswith("00:00:00,400")


def test_chapters_are_files_and_come_as_one(tmp_path: Path) -> None:
    progress = read(_TTS(), tmp_path, Settings(chapters=True, audio_format="wav", subtitles="vtt"))
    names = ["chapter-001.vtt", "chapter-001.wav", "chapter-002.vtt", "chapter-002.wav"]
    assert [path.name for path in progress.files] == ["chapters.zip", *names]
    assert sorted(zipfile.ZipFile(progress.files[0]).namelist()) == names
    assert (tmp_path / "chapter-002.vtt").read_text().startswith("WEBVTT\n\n1\n00:00:00.000")


def test_pause_resume_and_stop(tmp_path: Path) -> None:
    tts = _TTS()
    tts.gate = threading.Semaphore(0)
    narration = Narration(tts, BOOK, Settings(audio_format="wav"), tmp_path)
    narration.start()
    narration.pause()
    tts.gate.release(100)
    assert narration.wait(0.3).state is State.PAUSED
    assert len(tts.said) <= 1, "at most the sentence that was under way"
    narration.resume()
    while not tts.said:
        narration.wait(0.01)
    tts.gate = threading.Semaphore(0)
    narration.stop()
    tts.gate.release(2)
    progress = narration.wait(10)
    assert progress.state in (State.STOPPED, State.DONE) and progress.state.over
    assert [path.name for path in progress.files] == ["reading.wav"], "what was spoken is kept"


def test_a_stop_while_paused_ends_it(tmp_path: Path) -> None:
    narration = Narration(_TTS(), BOOK, Settings(), tmp_path)
    narration.pause()
    narration.start()
    narration.stop()
    progress = narration.wait(10)
    assert progress.state is State.STOPPED and progress.files == () and progress.done == 0


def test_a_text_of_which_nothing_can_be_spoken_fails(tmp_path: Path) -> None:
    progress = read(_TTS(), tmp_path, Settings(), Document("", (Chapter("", ("#", "##")),)))
    assert progress.state is State.FAILED and "nothing" in progress.error
    assert len(progress.skipped) == 2


def test_what_goes_wrong_in_the_thread_is_told(tmp_path: Path) -> None:
    progress = read(_TTS(), tmp_path / "none", Settings())
    assert progress.state is State.FAILED and "cannot be written" in progress.error


def test_what_cannot_begin(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="subtitle format"):
        Narration(_TTS(), BOOK, Settings(subtitles="txt"), tmp_path)
    with pytest.raises(TextError, match="nothing to read"):
        Narration(_TTS(), Document("", ()), Settings(), tmp_path)


def test_a_line_for_the_person_who_waits() -> None:
    progress = Progress(State.RUNNING, 2, 10, seconds=61.0, elapsed=30.0, skipped=("x",))
    assert summary(progress) == "reading: 2 of 10 sentences, 1:01, about 2:00 left, 1 could not be spoken"
    assert clock(3723.2) == "1:02:04"
