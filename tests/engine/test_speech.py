from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from cosyvoice.engine.guard import Fault
from cosyvoice.engine.speech import PieceReport, Report, Speech
from cosyvoice.errors import OutputError


def test_numbers_of_the_report() -> None:
    report = Report(1, 24000, samples=48000, seconds=1.0)
    assert (report.duration, report.rtf) == (2.0, 0.5)
    assert Report(1, 24000).rtf == 0.0
    report.pieces = [
        PieceReport("a", retries=1, faults=[Fault.SILENCE]),
        PieceReport("b", retries=2, faults=[Fault.RUNAWAY] * 3),
        PieceReport("c", faults=[Fault.RUNAWAY], cut=True),
    ]
    assert report.retries == 3
    assert [piece.text for piece in report.doubtful] == ["b", "c"]


def test_times_add_up_by_stage() -> None:
    report = Report(1, 24000)
    for _ in range(2):
        with report.measure("flow"):
            pass
    with pytest.raises(RuntimeError), report.measure("flow"):
        raise RuntimeError
    assert list(report.stage_seconds) == ["flow"]


def test_speech_is_saved(tmp_path: Path) -> None:
    speech = Speech(np.full(2400, 0.25, np.float32), 24000, Report(1, 24000))
    assert speech.duration == 0.1
    samples, rate = soundfile.read(speech.save(tmp_path / "x.wav"))
    assert (rate, len(samples)) == (24000, 2400)
    with pytest.raises(OutputError, match="unknown audio format"):
        speech.save(tmp_path / "x.xyz")
