"""Long texts read aloud sentence by sentence, in a thread of their own that can be paused and stopped.

Speech goes to disk as it is made, a file for all or one a chapter, so a book takes no more memory than a sentence. A
sentence that cannot be spoken is noted and passed over: one foreign word must not cost a night's work.
"""

from __future__ import annotations

import re
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import numpy as np

from cosyvoice.audio.io import write_bytes_atomically
from cosyvoice.audio.writer import AudioWriter
from cosyvoice.engine.alignment import WordTime
from cosyvoice.engine.joining import Joining, silence
from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.speech import Speech
from cosyvoice.engine.subtitles import Cue, CueRules, check_format, format_cues
from cosyvoice.errors import AudioError, CosyVoiceError, TextError
from cosyvoice.voice.voice import Voice
from cosyvoice.webui.documents import Document

PARAGRAPH_PAUSE = 0.5
CHAPTER_PAUSE = 1.2
"""Seconds, where chapters share a file."""
_SENTENCE = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+")


class State(Enum):
    """Of a narration."""

    RUNNING = "reading"
    PAUSED = "paused"
    DONE = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return self in (State.DONE, State.STOPPED, State.FAILED)


@dataclass(frozen=True)
class Settings:
    """How a document is read."""

    voice: Voice | str | None = None
    seed: int = 0
    speed: float = 1.0
    audio_format: str = "mp3"
    chapters: bool = False
    """A file for each chapter, with the subtitles in one zip; otherwise one file."""
    subtitles: str | None = None
    """`srt`, `vtt`, or None."""
    language: str | None = None
    """Code of the language; None: told from the text."""


@dataclass(frozen=True)
class Sentence:
    """A stretch of text that is spoken at once."""

    text: str
    chapter: int
    ends_paragraph: bool


@dataclass(frozen=True)
class Progress:
    """Where a narration is; a snapshot."""

    state: State
    done: int
    total: int
    current: str = ""
    seconds: float = 0.0
    """Of speech so far."""
    elapsed: float = 0.0
    """Seconds of work, pauses left out."""
    skipped: tuple[str, ...] = ()
    """Sentences that could not be spoken, each with the reason."""
    files: tuple[Path, ...] = ()
    error: str = ""

    @property
    def remaining(self) -> float | None:
        """Seconds of work that are left, once there is something to tell it by."""
        return self.elapsed / self.done * (self.total - self.done) if self.done else None


def sentences(tts: TTS, document: Document) -> list[Sentence]:
    """The document in pieces as the model's frontend cuts them.

    Paragraphs that it refuses are cut at ends of sentences, so that only the sentence it cannot read is lost.
    """
    split = tts.model.stages.text.split
    found: list[Sentence] = []
    for number, chapter in enumerate(document.chapters):
        for paragraph in chapter.paragraphs:
            try:
                pieces = split(paragraph)
            except TextError:
                pieces = [part for part in _SENTENCE.split(paragraph) if part.strip()]
            found += [Sentence(text, number, i + 1 == len(pieces)) for i, text in enumerate(pieces)]
    return found


@dataclass
class _Part:
    """A file that is being spoken."""

    writer: AudioWriter
    cues: list[Cue] = field(default_factory=list)


class Narration:
    """One document being read. `start` begins; everything else may be called from any thread.

    Args:
        tts: the model.
        document: what to read.
        settings: how.
        folder: an empty directory for the files.

    Raises `TextError` for a document without a sentence, `OutputError` for an unknown format.
    """

    def __init__(self, tts: TTS, document: Document, settings: Settings, folder: Path) -> None:
        if settings.subtitles is not None:
            check_format(settings.subtitles)
        self._tts, self._document, self._settings, self._folder = tts, document, settings, folder
        self._sentences = sentences(tts, document)
        if not self._sentences:
            raise TextError("there is nothing to read; give a text with at least one word")
        self._joining = Joining()
        self._going = threading.Event()
        self._going.set()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._progress = Progress(State.RUNNING, 0, len(self._sentences))
        self._thread = threading.Thread(target=self._run, name="narration", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def pause(self) -> None:
        """Wait once the current sentence is spoken."""
        self._going.clear()
        self._change_state(State.RUNNING, State.PAUSED)

    def resume(self) -> None:
        """Go on."""
        self._change_state(State.PAUSED, State.RUNNING)
        self._going.set()

    def stop(self) -> None:
        """End after the current sentence; what was spoken is kept."""
        self._stopped.set()
        self._going.set()

    def wait(self, timeout: float | None = None) -> Progress:
        """The progress once it is over, or after `timeout` seconds."""
        self._thread.join(timeout)
        return self.progress

    @property
    def progress(self) -> Progress:
        """Where the reading is."""
        with self._lock:
            return self._progress

    def _change_state(self, before: State, after: State) -> None:
        with self._lock:
            if self._progress.state is before:
                self._progress = replace(self._progress, state=after)

    def _update(self, **changes: object) -> None:
        with self._lock:
            self._progress = replace(self._progress, **changes)  # type: ignore[arg-type]

    def _run(self) -> None:
        part: _Part | None = None
        try:
            for index, sentence in enumerate(self._continuing()):
                before = self._sentences[index - 1] if index else None
                if before is not None and before.chapter != sentence.chapter and self._settings.chapters:
                    self._complete(part, before.chapter)
                    part = None
                start = time.perf_counter()
                self._update(current=sentence.text)
                part = self._speak(sentence, index, part)
                progress = self.progress
                elapsed = progress.elapsed + time.perf_counter() - start
                self._update(done=index + 1, elapsed=elapsed)
            done = self.progress.done
            self._complete(part, self._sentences[max(done - 1, 0)].chapter)
            part = None
            state = State.DONE if done == len(self._sentences) else State.STOPPED
            files = self._bundle()
            error = "" if files else "nothing of the text could be spoken"
            self._update(state=state if files or state is State.STOPPED else State.FAILED, files=files, error=error)
        except CosyVoiceError as error:
            self._update(state=State.FAILED, error=str(error))
        except Exception as error:
            # The thread has nobody to raise to: who looks at the progress has to learn of it.
            self._update(state=State.FAILED, error=f"reading broke off ({type(error).__name__}); start it again")
            raise
        finally:
            if part is not None:
                part.writer.discard()

    def _continuing(self) -> Iterator[Sentence]:
        for sentence in self._sentences:
            self._going.wait()
            if self._stopped.is_set():
                return
            yield sentence

    def _speak(self, sentence: Sentence, index: int, part: _Part | None) -> _Part | None:
        settings = self._settings
        try:
            speech = self._tts.say(
                sentence.text,
                settings.voice,
                seed=settings.seed + index,
                speed=settings.speed,
                language=settings.language,
            )
        except CosyVoiceError as error:
            self._update(skipped=(*self.progress.skipped, f"{sentence.text[:60]!r}: {error}"))
            return part
        if part is None:
            suffix = settings.audio_format
            name = f"chapter-{sentence.chapter + 1:03}.{suffix}" if settings.chapters else f"reading.{suffix}"
            part = _Part(AudioWriter(self._folder / name, speech.sample_rate))
        if settings.subtitles is not None:
            part.cues += _cues(self._tts, speech, sentence.text, part.writer.seconds)
        part.writer.write(speech.samples)
        part.writer.write(silence(self._pause_after(index), speech.sample_rate))
        self._update(seconds=self.progress.seconds + speech.duration)
        return part

    def _pause_after(self, index: int) -> float:
        sentence = self._sentences[index]
        if index + 1 == len(self._sentences):
            return 0.0
        if self._sentences[index + 1].chapter != sentence.chapter:
            return 0.0 if self._settings.chapters else CHAPTER_PAUSE
        return PARAGRAPH_PAUSE if sentence.ends_paragraph else self._joining.pause_after(sentence.text)

    def _complete(self, part: _Part | None, chapter: int) -> None:
        if part is None:
            return
        path = part.writer.close()
        if self._settings.subtitles is not None:
            text = format_cues(part.cues, self._settings.subtitles)
            write_bytes_atomically(path.with_suffix(f".{self._settings.subtitles}"), text.encode())

    def _bundle(self) -> tuple[Path, ...]:
        """The files to give out: those of the folder, and with chapters a zip of them all."""
        files = sorted(path for path in self._folder.iterdir() if path.name[0] != ".")
        if not files or not self._settings.chapters:
            return tuple(files)
        bundle = self._folder / "chapters.zip"
        with zipfile.ZipFile(bundle, "w", zipfile.ZIP_STORED) as archive:
            for file in files:
                archive.write(file, file.name)
        return (bundle, *files)


def _cues(tts: TTS, speech: Speech, text: str, offset: float) -> list[Cue]:
    """Subtitles of one piece, by words where they can be placed, else all of it at once."""
    try:
        words = tts.align(speech, speech.sample_rate, text)
    except (TextError, AudioError):
        return [Cue(offset, offset + speech.duration, text)]
    shifted = [WordTime(word.word, word.start + offset, word.end + offset, word.score) for word in words]
    return CueRules().cues(shifted)


def summary(progress: Progress) -> str:
    """A line for the person who waits."""
    parts = [f"{progress.state.value}: {progress.done} of {progress.total} sentences", clock(progress.seconds)]
    if progress.state is State.RUNNING and progress.remaining is not None:
        parts.append(f"about {clock(progress.remaining)} left")
    if progress.skipped:
        parts.append(f"{len(progress.skipped)} could not be spoken")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    whole = int(np.ceil(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
