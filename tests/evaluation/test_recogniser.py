from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from cosyvoice.audio.io import read_audio
from cosyvoice.errors import MissingDependencyError
from cosyvoice.evaluation.recogniser import PocketSphinx, Recogniser

SPOKEN = Path(__file__).parents[1] / "data" / "evaluation"


def test_missing_pocketsphinx_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        PocketSphinx()


def test_recognises_whatever_came_before() -> None:
    pytest.importorskip("pocketsphinx")
    first, rate = read_audio(SPOKEN / "open_the_window.flac")
    second, _ = read_audio(SPOKEN / "fresh_bread.flac")
    recogniser: Recogniser = PocketSphinx()
    assert recogniser.name.startswith("pocketsphinx ")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heard = recogniser.transcribe(first, rate)
        recogniser.transcribe(second, rate)
        again = recogniser.transcribe(first, rate)
    assert heard == again == "please open the window before you go to bed"


def test_silence_and_nothing_give_no_words() -> None:
    pytest.importorskip("pocketsphinx")
    recogniser = PocketSphinx()
    assert recogniser.transcribe(np.zeros(0, np.float32), 24000) == ""
    assert recogniser.transcribe(np.zeros(24000, np.float32), 24000) == ""
