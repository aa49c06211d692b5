"""Where the speech goes: places are checked before anything is computed, and files appear complete or not."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cosyvoice.errors import MissingDependencyError, OutputError

if TYPE_CHECKING:
    from cosyvoice.engine.speech import Speech

STDOUT = "-"
_LOWEST_DB = -90.0


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
    try:
        import matplotlib  # noqa: F401 - only to know that it is there
    except ImportError:
        raise MissingDependencyError(
            "drawing a spectrogram needs matplotlib; install it with: pip install 'cosyvoice[plot]'"
        ) from None


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
    import numpy as np
    from matplotlib.figure import Figure

    from cosyvoice.audio.io import write_bytes_atomically

    seconds = np.arange(len(speech.samples)) / speech.sample_rate
    figure = Figure(figsize=(max(6.0, min(24.0, 3.0 * speech.duration)), 5.0), layout="constrained")
    wave, picture = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3])
    wave.plot(seconds, speech.samples, linewidth=0.4)
    wave.set_ylabel("amplitude")
    # A window of 25 ms with four frames a window; short speech is padded to one window.
    size = int(0.025 * speech.sample_rate)
    samples = np.pad(speech.samples, (0, max(0, size - len(speech.samples))))
    with np.errstate(divide="ignore"):
        picture.specgram(
            samples, NFFT=size, noverlap=size - size // 4, Fs=speech.sample_rate,
            scale="dB", vmin=_LOWEST_DB - 20, cmap="magma",
        )  # fmt: skip
    picture.set_xlabel("time (s)")
    picture.set_ylabel("frequency (Hz)")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_bytes_atomically(path, buffer.getvalue())
