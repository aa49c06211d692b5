"""What the pipeline gives back: samples, and a report of how they came about."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cosyvoice.audio.io import write_audio
from cosyvoice.engine.guard import Fault
from cosyvoice.engine.stages import FloatArray


@dataclass(frozen=True, eq=False)
class Chunk:
    """A part of a stream. Joined in order, the samples of all chunks are the speech."""

    samples: FloatArray
    """Mono samples [time], never empty."""
    sample_rate: int
    """Hz"""
    offset: int
    """Position of the first sample in the speech."""
    piece: int
    """Number of the piece of text that is spoken here, from 0."""


@dataclass
class PieceReport:
    """How one piece of the text was spoken."""

    text: str
    tokens: int = 0
    """Speech tokens that the language model gave, in the attempt that was used."""
    retries: int = 0
    faults: list[Fault] = field(default_factory=list)
    """Faults of all attempts; with one more fault than retries, the last attempt has one as well."""
    cut: bool = False
    """The piece was ended at a fault, since its beginning had been given out already."""


@dataclass
class Report:
    """Complete when the last chunk has been given out."""

    seed: int
    sample_rate: int
    pieces: list[PieceReport] = field(default_factory=list)
    samples: int = 0
    seconds: float = 0.0
    """From the call to the last sample, waiting for the caller of a stream not counted."""
    time_to_first_audio: float = 0.0
    """From the call to the first chunk, in seconds."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each stage took: text, llm, flow, vocoder."""
    warnings: list[str] = field(default_factory=list)
    """What the user should know about the request, such as an instruction that the model was not trained on."""

    @property
    def duration(self) -> float:
        """Seconds of speech so far."""
        return self.samples / self.sample_rate

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of work a second of speech."""
        return self.seconds / self.duration if self.samples else 0.0

    @property
    def retries(self) -> int:
        """Attempts that were thrown away."""
        return sum(piece.retries for piece in self.pieces)

    @property
    def doubtful(self) -> list[PieceReport]:
        """Pieces that have a fault still."""
        return [piece for piece in self.pieces if len(piece.faults) > piece.retries]

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of the block to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, eq=False)
class Speech:
    """A spoken text."""

    samples: FloatArray
    """Mono samples [time] in [-1, 1]."""
    sample_rate: int
    """Hz"""
    report: Report

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.sample_rate

    def save(self, path: str | Path, audio_format: str | None = None) -> Path:
        """Write a file, complete or not at all; the format follows the extension (wav, flac, ogg, mp3).

        Raises `OutputError` for an unknown format or a place that cannot be written.
        """
        return write_audio(path, self.samples, self.sample_rate, audio_format)
