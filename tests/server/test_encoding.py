from __future__ import annotations

import io

import av
import numpy as np
import pytest
import soundfile

from cosyvoice.server.encoding import FORMATS, MEDIA_TYPES, AudioFormat, encode_whole, make_encoder, to_int16

RATE = 24000
CONTAINERS = {"mp3": "mp3", "opus": "ogg", "aac": "aac", "flac": "flac", "wav": "wav"}


def tone(seconds: float = 2.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def decoded(data: bytes, audio_format: str) -> tuple[np.ndarray, int]:
    if audio_format == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32767, RATE
    with av.open(io.BytesIO(data), format=CONTAINERS[audio_format]) as container:
        rate = container.streams.audio[0].rate
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
    samples = np.concatenate([part[0] for part in parts])
    scale = 32767 if np.issubdtype(samples.dtype, np.integer) else 1
    return samples.astype(np.float32) / scale, int(rate)


def streamed(samples: np.ndarray, audio_format: AudioFormat, size: int) -> list[bytes]:
    encoder = make_encoder(audio_format, RATE)
    parts = [encoder.push(samples[start : start + size]) for start in range(0, len(samples), size)]
    return [*parts, encoder.finish()]


@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_stream_decodes_to_what_was_said(audio_format: AudioFormat) -> None:
    samples, rate = decoded(b"".join(streamed(tone(), audio_format, 5000)), audio_format)
    assert abs(len(samples) / rate - 2.0) < 0.08
    spectrum = np.abs(np.fft.rfft(samples[rate // 2 : rate // 2 + rate]))
    assert int(spectrum.argmax()) == 440
    assert np.abs(samples[rate // 2 : rate]).max() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_audio_is_sent_while_it_is_made(audio_format: AudioFormat) -> None:
    parts = streamed(tone(), audio_format, RATE // 2)
    assert all(len(part) > 300 for part in parts[:4])


@pytest.mark.parametrize(("audio_format", "magic"), [("wav", b"RIFF"), ("flac", b"fLaC"), ("opus", b"OpusHead")])
def test_there_is_one_header_a_stream(audio_format: AudioFormat, magic: bytes) -> None:
    assert b"".join(streamed(tone(), audio_format, 3000)).count(magic) == 1


@pytest.mark.parametrize("audio_format", ["wav", "pcm", "flac"])
def test_lossless_formats_do_not_depend_on_the_cuts(audio_format: AudioFormat) -> None:
    first, _ = decoded(b"".join(streamed(tone(), audio_format, 777)), audio_format)
    second, _ = decoded(encode_whole(tone(), audio_format, RATE), audio_format)
    np.testing.assert_array_equal(first, second)


def test_a_whole_wav_knows_its_length() -> None:
    samples, rate = soundfile.read(io.BytesIO(encode_whole(tone(), "wav", RATE)))
    assert (len(samples), rate) == (2 * RATE, RATE)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_stream_may_be_given_up_or_be_empty(audio_format: AudioFormat) -> None:
    encoder = make_encoder(audio_format, RATE)
    encoder.push(tone(0.3))
    encoder.close()
    make_encoder(audio_format, RATE).close()


def test_loud_samples_are_limited() -> None:
    assert to_int16(np.array([2.0, -2.0, 0.5], np.float32)).tolist() == [32767, -32767, 16384]


def test_every_format_has_a_media_type() -> None:
    assert set(MEDIA_TYPES) == set(FORMATS) == {"mp3", "opus", "aac", "flac", "wav", "pcm"}
