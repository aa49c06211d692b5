from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cosyvoice.audio.io import AUDIO_FORMATS, encode_audio, read_audio, write_audio
from cosyvoice.errors import AudioError, OutputError

WAV = Path(__file__).parents[1] / "data" / "parity" / "wav"


def tone(rate: int = 24000, seconds: float = 0.5) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("audio_format", AUDIO_FORMATS)
def test_round_trip(tmp_path: Path, audio_format: str) -> None:
    path = write_audio(tmp_path / f"tone.{audio_format.upper()}", tone(), 24000)
    samples, rate = read_audio(path)
    assert rate == 24000 and samples.dtype == np.float32 and samples.ndim == 1
    assert abs(len(samples) - 12000) < 2400
    assert abs(np.sqrt(np.mean(samples**2)) - 0.5 / np.sqrt(2)) < 0.02
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    if audio_format in ("wav", "flac"):
        np.testing.assert_allclose(samples, tone(), atol=1 / 32000)


def test_channels_are_averaged_and_resampled() -> None:
    stereo, rate = soundfile.read(WAV / "stereo_44k.wav", dtype="float32")
    samples, read_rate = read_audio(str(WAV / "stereo_44k.wav"))
    assert read_rate == rate == 44100
    np.testing.assert_allclose(samples, stereo.mean(axis=1), atol=1e-7)
    resampled, new_rate = read_audio(WAV / "stereo_44k.wav", sample_rate=16000)
    assert new_rate == 16000 and abs(len(resampled) - len(samples) * 16000 / 44100) <= 1


def test_open_files_are_read() -> None:
    samples, rate = read_audio(io.BytesIO(encode_audio(tone(16000), 16000, "flac")))
    assert (rate, len(samples)) == (16000, 8000)


def test_loud_samples_are_limited_not_wrapped() -> None:
    samples, _ = read_audio(io.BytesIO(encode_audio(np.array([1.5, -1.5, 0.0]), 24000)))
    assert samples[0] > 0.99 and samples[1] < -0.99


def write_bad(path: Path, kind: str) -> Path:
    if kind == "text":
        path.write_text("this is not audio")
    elif kind == "empty file":
        path.write_bytes(b"")
    elif kind == "no samples":
        soundfile.write(path, np.zeros((0, 1)), 16000)
    elif kind == "nan":
        soundfile.write(path, np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    elif kind == "directory":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("text", "cannot be read as audio"),
        ("empty file", "cannot be read as audio"),
        ("no samples", "holds no samples"),
        ("nan", "not finite"),
        ("directory", "is not a file"),
    ],
)
def test_bad_input(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        read_audio(write_bad(tmp_path / "prompt.wav", kind))


def test_long_audio_is_refused_before_decoding() -> None:
    with pytest.raises(AudioError, match="more than 1 s"):
        read_audio(WAV / "feat_24k.wav", max_seconds=1)


@pytest.mark.parametrize(
    ("samples", "name", "error", "message"),
    [
        (tone(), "a.xyz", OutputError, "use one of wav, flac, ogg, mp3"),
        (tone(), "a", OutputError, "unknown audio format ''"),
        (tone(), "absent/a.wav", OutputError, "create it first"),
        (np.zeros(0), "a.wav", AudioError, "non-empty mono"),
        (np.zeros((2, 2)), "a.wav", AudioError, "non-empty mono"),
        (np.array([np.inf]), "a.wav", AudioError, "not finite"),
    ],
)
def test_bad_output(tmp_path: Path, samples: np.ndarray, name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        write_audio(tmp_path / name, samples, 24000)
    assert not list(tmp_path.iterdir())


def test_rates_that_a_format_lacks_and_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="use wav"):
        encode_audio(tone(), 12345, "mp3")
    with pytest.raises(OutputError, match="is a directory"):
        write_audio(tmp_path, tone(), 24000, "wav")
