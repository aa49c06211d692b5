from __future__ import annotations

import pytest

from cosyvoice.errors import TextError
from cosyvoice.text.frontend import TextFrontend
from cosyvoice.text.normalise import Normaliser


@pytest.fixture
def frontend() -> TextFrontend:
    return TextFrontend(str.split, Normaliser("none"))


def test_control_marks_and_empty_text_pass_unchanged(frontend: TextFrontend) -> None:
    for text in ("Be calm.<|endofprompt|>I have 3", ""):
        assert frontend.split(text) == [text]
        assert frontend.normalise(text) == text


def test_pieces_that_cannot_be_spoken_are_dropped(frontend: TextFrontend) -> None:
    assert frontend.split("?!") == []
    assert frontend.normalise("I have 3") == "I have three"
    assert frontend.split("I have 3") == ["I have three."]


def test_blank_text_is_refused(frontend: TextFrontend) -> None:
    for call in (frontend.split, frontend.normalise):
        with pytest.raises(TextError):
            call(" \n")


def test_marks_are_kept_unless_the_released_way_is_asked_for() -> None:
    assert TextFrontend(str.split, Normaliser("none")).split("Really?! Yes...") == ["Really?! Yes..."]
    assert TextFrontend(str.split, Normaliser("none"), "released").split("Really?! Yes...") == ["Really? Yes."]
