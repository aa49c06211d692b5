from __future__ import annotations

import io
import random
import struct
import time
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from cosyvoice.errors import AudioError, CosyVoiceError
from cosyvoice.server.encoding import make_encoder
from cosyvoice.server.errors import RequestError
from cosyvoice.server.settings import Limits
from cosyvoice.server.uploads import decode_upload

LIMITS = Limits()


def encoded(samples: np.ndarray, rate: int = 24000, **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **{"format": "WAV", "subtype": "PCM_16", **options})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("container", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]
)
def test_recordings_are_mixed_down_to_mono(container: str, subtype: str) -> None:
    tone = np.sin(np.arange(24000) * 0.05).astype(np.float32)
    samples, rate = decode_upload(encoded(np.stack([tone, 0 * tone], 1), format=container, subtype=subtype), LIMITS)
    assert rate == 24000 and samples.dtype == np.float32
    assert abs(len(samples) - 24000) < 2500
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.05)


def test_too_many_bytes_are_not_looked_at() -> None:
    with pytest.raises(RequestError) as caught:
        decode_upload(b"0" * 2000, Limits(upload_bytes=1024))
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(np.zeros(24000 * 31)), "lasts more than 30 s"),
        (encoded(np.zeros((2400, 9))), "9 channels"),
        (encoded(np.zeros(2400), rate=500_000), "500000 samples a second"),
        (encoded(np.zeros(0)), "no samples"),
        (b"", "cannot be read"),
        (b"RIFF", "cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "cannot be read"),
        (encoded(np.full(24000, np.nan), subtype="FLOAT"), "not finite"),
        (encoded(np.full(24000, 1e30), subtype="FLOAT"), "louder than full scale"),
    ],
)
def test_unusual_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        decode_upload(data, LIMITS)


def test_a_bomb_is_refused_by_its_header() -> None:
    """An hour and more of silence in a small file."""
    bomb = encoded(np.zeros(8000 * 4000, np.int16), rate=8000, format="FLAC")
    assert len(bomb) < LIMITS.upload_bytes
    begin = time.monotonic()
    with pytest.raises(AudioError, match="more than 30 s"):
        decode_upload(bomb, LIMITS)
    assert time.monotonic() - begin < 0.5


def test_a_header_that_understates_the_length_gains_nothing() -> None:
    bomb = bytearray(encoded(np.zeros(24000 * 60, np.int16), format="FLAC"))
    # The number of samples is the low 36 bits of bytes 18 to 26.
    packed = int.from_bytes(bomb[18:26], "big")
    bomb[18:26] = ((packed >> 36 << 36) | 24000).to_bytes(8, "big")
    with pytest.raises(AudioError):
        samples, _ = decode_upload(bytes(bomb), LIMITS)
        if len(samples) <= 30 * 24000:
            raise AudioError("cut to the bound")


def test_damaged_files_are_refused_quickly(recording: bytes) -> None:
    """A short version of `benchmarks/fuzz_uploads.py`."""
    generator = random.Random(0)
    for _ in range(300):
        data = bytearray(recording[: generator.randrange(20000)])
        for _ in range(generator.randrange(20)):
            if data:
                data[generator.randrange(min(len(data), 100))] = generator.randrange(256)
        begin = time.monotonic()
        try:
            samples, rate = decode_upload(bytes(data), LIMITS)
            assert 0 < len(samples) <= 30 * rate
        except CosyVoiceError:
            pass
        assert time.monotonic() - begin < 1.0


def test_a_huge_claimed_length_is_refused(recording: bytes) -> None:
    data = bytearray(recording)
    data[4:8] = data[40:44] = struct.pack("<I", 0xFFFFFFF0)
    samples, rate = decode_upload(bytes(data), LIMITS)
    assert len(samples) == 3 * rate


def test_a_stream_of_unknown_length_is_read_and_bounded() -> None:
    tone = np.sin(np.arange(48000) * 0.05).astype(np.float32)
    for seconds, refused in ((1, False), (31, True)):
        encoder = make_encoder("flac", 24000)
        data = b"".join(encoder.push(tone[:24000]) for _ in range(seconds)) + encoder.finish()
        if refused:
            with pytest.raises(AudioError, match="more than 30 s"):
                decode_upload(data, LIMITS)
        else:
            assert len(decode_upload(data, LIMITS)[0]) == 24000 * seconds


@pytest.mark.parametrize(("container", "codec"), [("webm", "libopus"), ("mp4", "aac"), ("adts", "aac")])
def test_what_browsers_record_is_read_and_bounded(container: str, codec: str) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=48000, layout="stereo")
        tone = (8000 * np.sin(np.arange(2 * 96000) // 2 * 0.05)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="stereo")
        frame.sample_rate = 48000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    samples, rate = decode_upload(buffer.getvalue(), LIMITS)
    assert rate == 48000 and abs(len(samples) - 96000) < 4000
    assert np.abs(samples).max() == pytest.approx(0.244, abs=0.03)
    with pytest.raises(AudioError, match=r"more than 1\.5 s"):
        decode_upload(buffer.getvalue(), Limits(reference_seconds=1.5))


@pytest.mark.parametrize("rate", [16000, 16001, 23999, 44099, 48000])
def test_recordings_keep_their_rate(rate: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    samples, found = decode_upload(encoded(0.5 * tone, rate), LIMITS)
    assert found == len(samples) == rate
    assert int(np.abs(np.fft.rfft(samples)).argmax()) == 440


def test_a_low_rate_stays_to_be_refused() -> None:
    assert decode_upload(encoded(np.zeros(8001), 8001), LIMITS)[1] == 8001
