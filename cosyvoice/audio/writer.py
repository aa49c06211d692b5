"""An audio file that grows while it is spoken: hours of speech need no more memory than a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile

from cosyvoice.audio.io import AUDIO_FORMATS, ENCODINGS
from cosyvoice.errors import OutputError

# Vorbis and MP3 are given a little at a time: libsndfile encodes a block on its stack.
_BLOCK = 1 << 15


class AudioWriter:
    """Writes mono samples to `path` as they come; the file has its name once it is complete.

    Leaving the block through an error removes what was written. Raises `OutputError` for an unknown format, a rate that
    it does not allow, or a place that cannot be written.
    """

    def __init__(self, path: Path, sample_rate: int, audio_format: str | None = None) -> None:
        audio_format = audio_format or path.suffix.lstrip(".").lower()
        if audio_format not in ENCODINGS:
            raise OutputError(f"unknown audio format {audio_format!r}; use one of {', '.join(AUDIO_FORMATS)}")
        container, subtype = ENCODINGS[audio_format]
        self.path, self.sample_rate, self.samples = path, sample_rate, 0
        self._partial = path.with_name(f".{path.name}.partial")
        try:
            self._file = soundfile.SoundFile(
                self._partial, "w", sample_rate, channels=1, format=container, subtype=subtype
            )
        except (soundfile.SoundFileError, OSError) as error:
            self._partial.unlink(missing_ok=True)
            raise OutputError(f"{path} cannot be written ({error}); choose another place or format") from None

    @property
    def seconds(self) -> float:
        """Length so far."""
        return self.samples / self.sample_rate

    def write(self, samples: np.ndarray) -> None:
        """Append `samples` [time] in [-1, 1]; values beyond are limited."""
        limited = np.clip(samples, -1.0, 1.0).astype(np.float32, copy=False)
        try:
            for start in range(0, len(limited), _BLOCK):
                self._file.write(limited[start : start + _BLOCK])
        except (soundfile.SoundFileError, OSError) as error:
            raise OutputError(f"{self.path} cannot be written ({error}); is the disk full?") from None
        self.samples += len(limited)

    def close(self) -> Path:
        """Complete the file."""
        self._file.close()
        os.replace(self._partial, self.path)
        return self.path

    def discard(self) -> None:
        """Remove what was written."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
