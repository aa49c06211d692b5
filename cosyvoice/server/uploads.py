"""Recordings that clients send: decoded within bounds, whatever their headers claim.

A few kilobytes can unpack to gigabytes, so rate, channels and length are read first, and decoding stops at the bound
even where the header lied about the length.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from cosyvoice.engine.stages import FloatArray
from cosyvoice.errors import AudioError
from cosyvoice.server.errors import RequestError
from cosyvoice.server.settings import Limits

_BLOCK = 1 << 16
"""Frames that are decoded at once."""
_LOUDEST = 8.0
"""Files of floating-point numbers may go beyond 1, but not by so much."""
# libsndfile also reads headerless audio and formats of old instruments, which nobody sends as a recording.
_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "MPEG", "AIFF", "AU", "CAF"})


def decode_upload(data: bytes, limits: Limits, name: str = "the recording") -> tuple[FloatArray, int]:
    """Mono samples [time] and their rate (Hz).

    WAV, FLAC, Ogg, MP3 and the like, and what browsers record: WebM, MP4 and AAC.

    Raises `RequestError` (413) for too many bytes, `AudioError` for what is no audio, too long, or of an unusual kind.
    """
    check_size(len(data), limits)
    container = _container(data)
    blocks = _libsndfile(data, limits, name) if container is None else _ffmpeg(data, container, limits, name)
    parts: list[FloatArray] = []
    count, rate = 0, 1
    try:
        for block, rate in blocks:
            parts.append(block)
            count += len(block)
            if count > limits.reference_seconds * rate:
                raise _too_long(name, limits)
    except (soundfile.SoundFileError, av.FFmpegError, OSError, TypeError, ValueError, MemoryError) as error:
        reason = str(error).rpartition(": ")[2].strip()
        raise AudioError(f"{name} cannot be read as audio ({reason}); send WAV, FLAC, Ogg or MP3") from None
    if count == 0:
        raise AudioError(f"{name} holds no samples; record it again")
    return np.concatenate(parts), rate


Blocks = Iterator[tuple[FloatArray, int]]
"""Mono samples [time] with their rate in Hz."""


def _container(data: bytes) -> str | None:
    """FFmpeg's name of a container that libsndfile does not read; None: libsndfile's."""
    # Only these are ever handed to FFmpeg, which otherwise also opens playlists that name other files.
    if data[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if data[4:8] == b"ftyp":
        return "mp4"
    if data[:1] == b"\xff" and data[1:2] in (b"\xf1", b"\xf9"):
        return "aac"
    # 36 bits that count the samples; a stream leaves them zero, and libsndfile wants to seek by them.
    if data[:4] == b"fLaC" and int.from_bytes(data[21:26], "big") & (1 << 36) - 1 == 0:
        return "flac"
    return None


def _libsndfile(data: bytes, limits: Limits, name: str) -> Blocks:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        rate = int(file.samplerate)
        if file.format not in _FORMATS:
            raise AudioError(f"{name} is a {file.format} file; send WAV, FLAC, Ogg or MP3")
        _check_kind(rate, int(file.channels), limits, name)
        if file.frames > limits.reference_seconds * rate:
            raise _too_long(name, limits)
        while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
            yield _mono(block.T, name), rate


def _ffmpeg(data: bytes, container: str, limits: Limits, name: str) -> Blocks:
    with av.open(io.BytesIO(data), "r", format=container) as file:
        if not file.streams.audio:
            raise AudioError(f"{name} holds no sound; send a recording")
        stream = file.streams.audio[0]
        if stream.codec_context is None:
            raise AudioError(f"{name} is in a codec that is not known; send WAV, FLAC, Ogg or MP3")
        floats = av.AudioResampler(format="fltp")
        for frame in file.decode(stream):
            _check_kind(frame.sample_rate, frame.layout.nb_channels, limits, name)
            for converted in floats.resample(frame):
                yield _mono(converted.to_ndarray(), name), frame.sample_rate


def check_size(size: int, limits: Limits) -> None:
    """Raise `RequestError` (413) for a recording of `size` bytes that is not looked at."""
    if size > limits.upload_bytes:
        raise RequestError(
            f"the recording has {size} bytes, at most {limits.upload_bytes} are taken; cut it to 3 to 15 s",
            status=413, param="ref_audio", code="upload_too_large",
        )  # fmt: skip


def _mono(channels: NDArray[Any], name: str) -> FloatArray:
    """The mean of `channels` [channel, time]."""
    if not np.isfinite(channels).all():
        raise AudioError(f"{name} holds values that are not finite numbers; convert it to 16-bit WAV")
    if np.abs(channels).max(initial=0.0) > _LOUDEST:
        raise AudioError(f"{name} is louder than full scale by far; convert it to 16-bit WAV")
    return channels.mean(axis=0, dtype=np.float32)


def _check_kind(rate: int, channels: int, limits: Limits, name: str) -> None:
    if not 0 < rate <= limits.decode_rate:
        raise AudioError(f"{name} has {rate} samples a second, at most {limits.decode_rate} are taken; resample it")
    if not 0 < channels <= limits.decode_channels:
        raise AudioError(f"{name} has {channels} channels, at most {limits.decode_channels} are taken; mix it down")


def _too_long(name: str, limits: Limits) -> AudioError:
    return AudioError(f"{name} lasts more than {limits.reference_seconds:g} s; cut it to 3 to 15 s")
