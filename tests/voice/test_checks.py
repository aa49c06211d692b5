from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cosyvoice.errors import AudioError, VoiceError
from cosyvoice.voice.checks import (
    check_reference,
    check_transcript,
    is_clipped,
    read_reference,
    speech_seconds,
    trim_edges,
)

Speech = Callable[..., np.ndarray]
Write = Callable[..., Path]


def test_good_recordings_pass(write_wav: Write, make_speech: Speech, reference_wav: Path) -> None:
    samples, rate = read_reference(write_wav(make_speech(2.0)))
    assert (samples.shape, samples.dtype, rate) == ((48000,), np.float32, 24000)
    read_reference(reference_wav)


def test_stereo_of_eight_bits_is_made_mono(write_wav: Write, make_speech: Speech) -> None:
    mono = make_speech(1.5, 44100)
    samples, rate = read_reference(write_wav(np.stack([mono, mono], axis=1), 44100, "PCM_U8"))
    assert (samples.ndim, rate) == (1, 44100)
    assert np.abs(samples - mono).max() < 0.02


def test_a_high_rate_passes(write_wav: Write, make_speech: Speech) -> None:
    samples, rate = read_reference(write_wav(make_speech(1.5, 192000), 192000, "PCM_24"))
    assert (len(samples), rate) == (288000, 192000)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="does not exist"):
        read_reference(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("this is no audio")
    with pytest.raises(AudioError, match="cannot be read as audio"):
        read_reference(tmp_path / "text.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(AudioError, match="cannot be read as audio"):
        read_reference(tmp_path / "empty.wav")


@pytest.mark.parametrize("level", [0.0, 0.0005])
def test_silence_is_refused(write_wav: Write, level: float) -> None:
    noise = level * np.random.default_rng(0).uniform(-1, 1, 48000)
    with pytest.raises(AudioError, match="is silent"):
        read_reference(write_wav(noise))


def test_a_constant_offset_is_silence(write_wav: Write) -> None:
    with pytest.raises(AudioError, match="is silent"):
        read_reference(write_wav(np.full(48000, 0.4)))


def test_lengths_out_of_range_are_refused(write_wav: Write, make_speech: Speech) -> None:
    with pytest.raises(AudioError, match=r"lasts 0\.90 s, less than 1 s"):
        read_reference(write_wav(make_speech(0.9)))
    with pytest.raises(AudioError, match=r"lasts 30\.5 s, more than 30 s"):
        read_reference(write_wav(make_speech(30.5, 16000), 16000))


def test_a_low_rate_is_refused(write_wav: Write, make_speech: Speech) -> None:
    with pytest.raises(AudioError, match="8000 samples a second, at least 16000"):
        read_reference(write_wav(make_speech(2.0, 8000), 8000))


@pytest.mark.parametrize("gain", [2.0, 8.0])
def test_clipping_is_refused(write_wav: Write, make_speech: Speech, gain: float) -> None:
    loud = np.clip(make_speech(2.0, level=1.0) * gain, -1, 1)
    with pytest.raises(AudioError, match="is clipped"):
        read_reference(write_wav(loud))


def test_full_scale_without_clipping_passes(make_speech: Speech) -> None:
    assert not is_clipped(make_speech(2.0, level=1.0))
    quantised = np.round(make_speech(2.0, level=1.0) * 127) / 127
    assert not is_clipped(quantised.astype(np.float32))


def test_mostly_silence_is_refused(make_speech: Speech) -> None:
    samples = np.zeros(72000, np.float32)
    samples[24000:28800] = make_speech(0.2)
    with pytest.raises(AudioError, match=r"holds only 0\.20 s of sound"):
        check_reference(samples, 24000)


def test_values_that_are_not_finite_are_refused(make_speech: Speech) -> None:
    samples = make_speech(2.0)
    samples[5] = np.nan
    with pytest.raises(AudioError, match="not finite"):
        check_reference(samples, 24000)


def test_a_transcript_must_fit() -> None:
    check_transcript(40, 3.0, "as people speak")
    with pytest.raises(VoiceError, match=r"more than can be said for 3\.0 s"):
        check_transcript(120, 3.0, "a long story")
    with pytest.raises(VoiceError, match=r"too little for 10\.0 s"):
        check_transcript(8, 10.0, "no")


def test_edges_are_trimmed_to_a_tenth_of_a_second(make_speech: Speech) -> None:
    speech = make_speech(1.0)
    trimmed = trim_edges(np.concatenate([np.zeros(24000), speech, np.zeros(36000)]).astype(np.float32), 24000)
    assert 0 <= len(trimmed) - len(speech) - 2 * 2400 < 2 * 480
    assert speech_seconds(trimmed, 24000) == pytest.approx(1.0, abs=0.05)
    np.testing.assert_array_equal(trim_edges(np.zeros(24000, np.float32), 24000), np.zeros(24000))
