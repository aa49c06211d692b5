from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from cosyvoice.audio.writer import AudioWriter
from cosyvoice.errors import OutputError


@pytest.mark.parametrize("audio_format", ["wav", "flac", "ogg", "mp3"])
def test_parts_become_one_file(tmp_path: Path, audio_format: str) -> None:
    path = tmp_path / f"a.{audio_format}"
    tone = np.sin(np.arange(100_000) / 20).astype(np.float32) * 0.5
    with AudioWriter(path, 24000) as writer:
        for part in np.array_split(tone, 7):
            writer.write(part)
        assert not path.exists(), "a file that is not complete must not have its name"
    samples, rate = soundfile.read(path)
    assert rate == 24000 and abs(len(samples) - len(tone)) < 3000
    assert writer.seconds == pytest.approx(100_000 / 24000)
    if audio_format in ("wav", "flac"):
        np.testing.assert_allclose(samples, tone, atol=1e-4)


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), AudioWriter(tmp_path / "a.wav", 24000) as writer:
        writer.write(np.zeros(100, np.float32))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_loud_samples_are_limited(tmp_path: Path) -> None:
    with AudioWriter(tmp_path / "a.wav", 24000) as writer:
        writer.write(np.array([2.0, -2.0], np.float32))
    samples, _ = soundfile.read(tmp_path / "a.wav")
    assert samples[0] > 0.99 and samples[1] <= -0.99


@pytest.mark.parametrize(("name", "rate", "message"), [("a.xyz", 24000, "unknown audio format"),
                                                       ("none/a.wav", 24000, "cannot be written"),
                                                       ("a.mp3", 12345, "cannot be written")])  # fmt: skip
def test_what_cannot_be_written(tmp_path: Path, name: str, rate: int, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        AudioWriter(tmp_path / name, rate)
    assert list(tmp_path.iterdir()) == []
