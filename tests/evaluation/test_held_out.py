from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from cosyvoice.errors import ConfigError
from cosyvoice.evaluation.held_out import Recording, divide, read_held_out

RATE = 24000


def _recording(number: int, seconds: float) -> Recording:
    samples = np.full(int(seconds * RATE), number / 100, np.float32)
    return Recording(f"r{number}", f"Text {number}.", samples, RATE)


def test_the_recording_nearest_to_five_seconds_is_the_reference() -> None:
    speaker = divide("a", [_recording(i, s) for i, s in enumerate([2.0, 7.5, 4.6, 3.1, 9.0])], 2)
    assert speaker is not None
    assert speaker.reference.id == "r2"
    assert [r.id for r in speaker.spoken] == ["r0", "r1"]
    assert [r.id for r in speaker.enrolment] == ["r3", "r4"]


def test_two_short_recordings_are_joined_with_their_texts() -> None:
    speaker = divide("a", [_recording(i, s) for i, s in enumerate([1.0, 2.0, 2.5, 1.2])], 5)
    assert speaker is not None
    assert speaker.reference.id == "r1+r2"
    assert speaker.reference.text == "Text 1. Text 2."
    assert speaker.reference.seconds == pytest.approx(4.7)
    assert {r.id for r in speaker.spoken} | {r.id for r in speaker.enrolment} == {"r0", "r3"}
    assert len(speaker.spoken) == len(speaker.enrolment) == 1


@pytest.mark.parametrize("seconds", [[1.0, 1.0, 0.5], [9.0, 10.0], [4.0, 2.0], [4.0], []])
def test_speakers_without_enough_speech_are_left_out(seconds: list[float]) -> None:
    assert divide("a", [_recording(i, s) for i, s in enumerate(seconds)], 3) is None


def _shard(path: Path, split: str, speaker: str, seconds: list[float]) -> None:
    rows = []
    for i, length in enumerate(seconds):
        flac = io.BytesIO()
        soundfile.write(flac, _recording(i + 1, length).samples, RATE, format="FLAC", subtype="PCM_16")
        rows.append(
            {"id": f"{speaker}-{i}", "split": split, "speaker": speaker, "text": f"Text {i}.", "flac": flac.getvalue()}
        )
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_reading_a_corpus(tmp_path: Path) -> None:
    _shard(tmp_path / "a.parquet", "train", "known", [4.0, 4.0, 4.0])
    _shard(tmp_path / "b.parquet", "test", "zoe", [4.0, 3.5, 2.0])
    _shard(tmp_path / "c.parquet", "test", "ada", [2.0, 5.0, 2.0, 2.2])
    _shard(tmp_path / "d.parquet", "test", "bob", [1.0, 1.0, 0.3])
    found = read_held_out(tmp_path, 5, 1)
    assert [speaker.name for speaker in found] == ["ada", "zoe"]
    assert found[0].reference.id == "ada-1"
    assert found[0].reference.sample_rate == RATE
    np.testing.assert_allclose(found[0].reference.samples, 0.02, atol=1e-4)
    assert [speaker.name for speaker in read_held_out(tmp_path, 1, 1)] == ["ada"]


def test_folders_without_held_out_speakers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no corpus"):
        read_held_out(tmp_path, 2, 2)
    _shard(tmp_path / "a.parquet", "train", "known", [4.0, 4.0])
    with pytest.raises(ConfigError, match="no usable speaker"):
        read_held_out(tmp_path, 2, 2)
