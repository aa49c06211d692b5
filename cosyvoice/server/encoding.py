"""Speech as a stream of bytes in the six formats of OpenAI's API; each request has an encoder of its own.

A stream has one container header, at its start. Formats whose header wants the length of what follows, which a stream
cannot know, say that it is unknown.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any, Literal, get_args

import av
import numpy as np

from cosyvoice.engine.stages import FloatArray

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
FORMATS: tuple[AudioFormat, ...] = get_args(AudioFormat)

MEDIA_TYPES: dict[AudioFormat, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_UNKNOWN_LENGTH = 0xFFFFFFFF


@dataclass(frozen=True)
class _Codec:
    container: str
    name: str
    bit_rate: int | None = None
    container_options: tuple[tuple[str, str], ...] = ()
    codec_options: tuple[tuple[str, str], ...] = ()


_CODECS: dict[str, _Codec] = {
    # Without the reservoir, a frame can be played as soon as it is there.
    "mp3": _Codec("mp3", "libmp3lame", 96_000, (("write_xing", "0"), ("id3v2_version", "0")), (("reservoir", "0"),)),
    # Pages of 20 ms, since a page is only sent when it is full.
    "opus": _Codec("ogg", "libopus", 48_000, (("page_duration", "20000"),)),
    "aac": _Codec("adts", "aac", 96_000),
    "flac": _Codec("flac", "flac"),
}


class Encoder:
    """Samples in, bytes out: `push` for each chunk, then `finish`, once."""

    def push(self, samples: FloatArray) -> bytes:
        """What can be sent of `samples` [time] in [-1, 1] and of those before."""
        raise NotImplementedError

    def finish(self) -> bytes:
        """The rest."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up an unfinished stream."""


class PCMEncoder(Encoder):
    """16-bit little-endian samples, behind a WAV header if wanted."""

    def __init__(self, sample_rate: int, wav: bool) -> None:
        self._header = wav_header(sample_rate) if wav else b""

    def push(self, samples: FloatArray) -> bytes:
        header, self._header = self._header, b""
        return header + to_int16(samples).tobytes()

    def finish(self) -> bytes:
        header, self._header = self._header, b""
        return header


class AVEncoder(Encoder):
    """A codec and a container of FFmpeg, in memory."""

    def __init__(self, audio_format: str, sample_rate: int) -> None:
        codec = _CODECS[audio_format]
        self._sink = _Sink()
        self._container: Any = av.open(
            self._sink, "w", format=codec.container, container_options=dict(codec.container_options)
        )
        stream: Any = self._container.add_stream(
            codec.name, rate=sample_rate, layout="mono", options=dict(codec.codec_options)
        )
        if codec.bit_rate is not None:
            stream.bit_rate = codec.bit_rate
        self._stream = stream
        self._sample_rate = sample_rate
        self._position = 0

    def push(self, samples: FloatArray) -> bytes:
        frame = av.AudioFrame.from_ndarray(to_int16(samples)[None], format="s16", layout="mono")
        frame.sample_rate = self._sample_rate
        frame.pts = self._position
        self._position += len(samples)
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        return self._sink.take()

    def finish(self) -> bytes:
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()
        return self._sink.take()

    def close(self) -> None:
        self._container.close()


class _Sink(io.RawIOBase):
    """Keeps what is written until it is taken."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        # A stream cannot be gone back in, so no muxer may plan to complete its header later.
        return False

    def write(self, data: Any) -> int:
        self._bytes += data
        return len(data)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = bytes(self._bytes)
        self._bytes.clear()
        return taken


def make_encoder(audio_format: AudioFormat, sample_rate: int) -> Encoder:
    """An encoder for one stream of mono speech at `sample_rate` Hz."""
    if audio_format in ("pcm", "wav"):
        return PCMEncoder(sample_rate, wav=audio_format == "wav")
    return AVEncoder(audio_format, sample_rate)


def encode_whole(samples: FloatArray, audio_format: AudioFormat, sample_rate: int) -> bytes:
    """A complete file; unlike a stream, its header knows the length where the format has one."""
    if audio_format == "wav":
        data = to_int16(samples).tobytes()
        return wav_header(sample_rate, len(data)) + data
    encoder = make_encoder(audio_format, sample_rate)
    return encoder.push(samples) + encoder.finish()


def to_int16(samples: FloatArray) -> np.ndarray:
    """16-bit samples, limited rather than wrapped around."""
    return (np.clip(samples, -1.0, 1.0) * 32767.0).round().astype("<i2")


def wav_header(sample_rate: int, length: int | None = None) -> bytes:
    """The 44 bytes before mono 16-bit samples of `length` bytes; None: as many as will come."""
    data = _UNKNOWN_LENGTH if length is None else length
    riff = _UNKNOWN_LENGTH if length is None else length + 36
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16, b"data", data,
    )  # fmt: skip
