from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from cosyvoice.engine.pipeline import TTS
from cosyvoice.errors import SeveralSpeakersError
from cosyvoice.webui.recordings import examine, listening, usable


def with_pauses(speech: np.ndarray, noise: float = 0.0) -> np.ndarray:
    loud = np.sin(np.arange(len(speech)) / 24000 * 2 * np.pi * 1.0) > -0.5
    return (speech * loud + noise * np.random.default_rng(0).standard_normal(len(speech))).astype(np.float32)


def count(text: str) -> int:
    return 5 * len(text.split())


def test_a_good_recording(write_wav: Callable[..., Path], make_speech: Callable[..., np.ndarray]) -> None:
    path = write_wav(with_pauses(make_speech(6.0), 1e-4))
    found = examine(path, "one two three four five six seven eight", count)
    assert {finding.level for finding in found} == {"ok"}
    assert usable(found) and len(found) == 3


@pytest.mark.parametrize(
    ("seconds", "level", "noise", "transcript", "expected"),
    [
        (2.0, 0.3, 1e-4, "one two", "make a better voice"),
        (24.0, 0.3, 1e-4, "", "makes speaking slower"),
        (6.0, 0.3, 0.05, "", "noise or music"),
        (6.0, 0.02, 1e-4, "", "very quiet"),
        (6.0, 0.3, 1e-4, "", "no transcript"),
    ],
)
def test_hints(
    write_wav: Callable[..., Path],
    make_speech: Callable[..., np.ndarray],
    seconds: float,
    level: float,
    noise: float,
    transcript: str,
    expected: str,
) -> None:
    found = examine(write_wav(with_pauses(make_speech(seconds, level=level), noise)), transcript, count)
    assert any(finding.level == "hint" and expected in finding.text for finding in found), found
    assert usable(found)


def test_what_is_wrong(write_wav: Callable[..., Path], make_speech: Callable[..., np.ndarray], tmp_path: Path) -> None:
    def problems(path: Path | None, transcript: str = "") -> str:
        found = examine(path, transcript, count)
        assert not usable(found)
        return " ".join(finding.text for finding in found if finding.level == "wrong")

    (tmp_path / "x.m4a").write_bytes(b"no audio")
    assert "the recording cannot be read" in problems(tmp_path / "x.m4a")
    assert "less than 1 s" in problems(write_wav(make_speech(0.5)))
    assert "silent" in problems(write_wav(np.zeros(48000)))
    assert "more than can be said" in problems(write_wav(make_speech(4.0)), "word " * 60)
    assert problems(None) == ""


def test_listening_tells_what_was_heard(write_wav: Callable[..., Path], make_speech: Callable[..., np.ndarray]) -> None:
    @dataclass
    class Heard:
        score: float | None
        speakers: int = 1

        def transcript_score(self, samples: np.ndarray, rate: int, transcript: str) -> float | None:
            return self.score

        def check_one_speaker(self, samples: np.ndarray, rate: int) -> None:
            if self.speakers > 1:
                raise SeveralSpeakersError("several")

    path = write_wav(make_speech(3.0))
    for heard, levels in (
        (Heard(0.9), ["ok"]),
        (Heard(0.1), ["hint"]),
        (Heard(None), []),
        (Heard(0.9, 2), ["hint", "ok"]),
    ):
        assert [finding.level for finding in listening(cast(TTS, heard), path, "one")] == levels
