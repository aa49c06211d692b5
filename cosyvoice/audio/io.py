"""Audio files in and out: mono float32 in [-1, 1] inside the library, whatever the file holds.

Output appears complete or not at all: it is encoded in memory, written beside its place, then renamed.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from cosyvoice.audio.resample import resample
from cosyvoice.errors import AudioError, OutputError

ENCODINGS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
"""Format and sample encoding of libsndfile by file extension."""
AUDIO_FORMATS = tuple(ENCODINGS)


def read_audio(
    source: str | Path | BinaryIO, sample_rate: int | None = None, max_seconds: float | None = None
) -> tuple[np.ndarray, int]:
    """Read a file (or an open binary file) that libsndfile understands: WAV, FLAC, Ogg, MP3, AIFF and others.

    Args:
        source: the file.
        sample_rate: resample to this rate (Hz); None keeps the rate of the file.
        max_seconds: refuse longer audio before decoding it; None accepts any length.

    Returns:
        Mono samples [time], float32 (the mean of the channels), and their rate in Hz.

    Raises:
        AudioError: the file is missing, no audio, empty, too long, or holds values that are not finite.
    """
    name = str(source) if isinstance(source, (str, Path)) else getattr(source, "name", "the audio data")
    if isinstance(source, (str, Path)):
        if not Path(source).exists():
            raise AudioError(f"{name} does not exist; check the path")
        if not Path(source).is_file():
            raise AudioError(f"{name} is not a file; give the path of an audio file")
    try:
        with soundfile.SoundFile(source) as file:
            rate = int(file.samplerate)
            if max_seconds is not None and file.frames > max_seconds * rate:
                seconds = file.frames / rate
                raise AudioError(f"{name} lasts {seconds:.1f} s, more than {max_seconds:g} s; cut it")
            channels = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        reason = str(error).rpartition(": ")[2].strip()
        raise AudioError(
            f"{name} cannot be read as audio ({reason}); convert it to WAV or FLAC, for example with ffmpeg"
        ) from None
    if channels.size == 0:
        raise AudioError(f"{name} holds no samples; record it again")
    if not np.isfinite(channels).all():
        raise AudioError(f"{name} holds values that are not finite numbers; convert it to 16-bit WAV")
    samples = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1, dtype=np.float32)
    if sample_rate is not None and sample_rate != rate:
        samples, rate = resample(samples, rate, sample_rate), sample_rate
    return np.ascontiguousarray(samples), rate


def encode_audio(samples: np.ndarray, sample_rate: int, audio_format: str = "wav") -> bytes:
    """Encode mono `samples` [time] as a complete file: `wav` and `flac` (16 bit), `ogg` (Vorbis) or `mp3`.

    Values beyond [-1, 1] are limited, since an integer that wraps around is a loud click.

    Raises:
        AudioError: the samples are empty, not mono or not finite.
        OutputError: the format is unknown, or does not allow this rate.
    """
    if audio_format not in ENCODINGS:
        raise OutputError(f"unknown audio format {audio_format!r}; use one of {', '.join(AUDIO_FORMATS)}")
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.size == 0:
        raise AudioError(f"cannot encode samples of shape {samples.shape}; give a non-empty mono array [time]")
    if not np.isfinite(samples).all():
        raise AudioError("cannot encode samples that are not finite numbers; the synthesis went wrong")
    container, subtype = ENCODINGS[audio_format]
    buffer = io.BytesIO()
    limited = np.clip(samples, -1.0, 1.0).astype(np.float32, copy=False)
    try:
        soundfile.write(buffer, limited, sample_rate, format=container, subtype=subtype)
    except (soundfile.SoundFileError, ValueError, TypeError) as error:
        raise OutputError(f"{audio_format} cannot hold audio at {sample_rate} Hz ({error}); use wav") from None
    return buffer.getvalue()


def write_audio(path: str | Path, samples: np.ndarray, sample_rate: int, audio_format: str | None = None) -> Path:
    """Write mono `samples` [time] to `path`; the format follows the extension unless it is named.

    Raises:
        AudioError: the samples are empty, not mono or not finite.
        OutputError: the format is unknown, or the place cannot be written.
    """
    path = Path(path)
    data = encode_audio(samples, sample_rate, audio_format or path.suffix.lstrip(".").lower())
    write_bytes_atomically(path, data)
    return path


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the complete new one.

    Raises:
        OutputError: the directory is missing, or the place cannot be written.
    """
    if not path.parent.is_dir():
        raise OutputError(f"the directory {path.parent} does not exist; create it first")
    if path.is_dir():
        raise OutputError(f"{path} is a directory; name a file")
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes files that only their owner may read; audio is shared like any other file.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose another place") from None
    finally:
        if temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
