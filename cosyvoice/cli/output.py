"""Where the speech goes: places are checked before anything is computed, and files appear complete or not."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cosyvoice.errors import OutputError

if TYPE_CHECKING:
    from cosyvoice.engine.speech import Speech

STDOUT = "-"


def check_place(path: Path) -> None:
    """Raise `OutputError` where a file `path` cannot be written."""
    if path.is_dir():
        raise OutputError(f"{path} is a directory; name a file")
    if not path.parent.is_dir():
        raise OutputError(f"the directory {path.parent} does not exist; create it first")
    try:
        # Permissions tell too little: read-only file systems and quotas show only when something is written.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose another place") from None


def check_output(path: Path) -> None:
    """Raise `OutputError` for an audio file that cannot be written or has no known format."""
    from cosyvoice.audio.io import AUDIO_FORMATS

    if str(path) == STDOUT:
        if sys.stdout.isatty():
            raise OutputError("audio would fill the terminal; redirect standard output, or name a file with -o")
        return
    if path.suffix.lstrip(".").lower() not in AUDIO_FORMATS:
        endings = ", ".join(f".{name}" for name in AUDIO_FORMATS)
        raise OutputError(f"{path} does not say its format; let the name end with one of {endings}")
    check_place(path)


def check_spectrogram(path: Path) -> None:
    """Raise `OutputError` for a place that cannot be written, `MissingDependencyError` without matplotlib."""
    if path.suffix.lower() != ".png":
        raise OutputError(f"the spectrogram {path} would be a PNG file; let the name end with .png")
    check_place(path)
    from cosyvoice.engine.picture import check_pictures

    check_pictures()


def check_subtitles(path: Path, text: str) -> None:
    """Raise `OutputError` for a place or format that cannot be written, `TextError` for text that is not English."""
    from cosyvoice.engine.subtitles import check_format
    from cosyvoice.text.phone_frontend import PhoneFrontend
    from cosyvoice.text.written_words import written_words

    check_format(path.suffix.lstrip(".").lower())
    check_place(path)
    written_words(PhoneFrontend(), text)


def write_speech(path: Path, speech: Speech) -> None:
    """Write the file, or WAV to standard output for '-'."""
    if str(path) != STDOUT:
        speech.save(path)
        return
    from cosyvoice.audio.io import encode_audio

    sys.stdout.buffer.write(encode_audio(speech.samples, speech.sample_rate, "wav"))
    sys.stdout.buffer.flush()


def write_spectrogram(path: Path, speech: Speech) -> None:
    """Draw waveform and spectrogram (dB of full scale, linear frequency)."""
    from cosyvoice.audio.io import write_bytes_atomically
    from cosyvoice.engine.picture import draw_speech

    write_bytes_atomically(path, draw_speech(speech.samples, speech.sample_rate))
