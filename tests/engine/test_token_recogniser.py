"""The shipped model's recogniser, on the tokens of a preset's reference, which say its transcript."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosyvoice import DEFAULT_MODEL
from cosyvoice.engine.frontends import PhoneTextFrontend
from cosyvoice.engine.guard import Fault, Guard
from cosyvoice.engine.token_recogniser import PhonesOfTokens, token_recogniser
from cosyvoice.voice.voice import Voice

VOICE = Voice.load(DEFAULT_MODEL / "voices" / "ryan.safetensors")


@pytest.fixture(scope="module")
def recogniser() -> PhonesOfTokens:
    found = token_recogniser(DEFAULT_MODEL, PhoneTextFrontend())
    assert isinstance(found, PhonesOfTokens)
    return found


def test_what_is_said_is_heard(recogniser: PhonesOfTokens) -> None:
    words = recogniser.words(VOICE.transcript)
    scores = recogniser.scores(VOICE.speech_token.tolist(), words)
    assert len(scores) == len(words) == len(VOICE.transcript.split())
    assert min(scores) > 0.5
    assert Guard().omission(words, scores) is None


def test_what_is_not_said_is_missed(recogniser: PhonesOfTokens) -> None:
    words = recogniser.words(VOICE.transcript + " The children painted their kitchen.")
    scores = recogniser.scores(VOICE.speech_token.tolist(), words)
    assert Guard().omission(words, scores) is Fault.OMISSION


def test_tokens_with_less_room_than_the_words_say_none_of_them(recogniser: PhonesOfTokens) -> None:
    words = recogniser.words(VOICE.transcript)
    assert recogniser.scores(VOICE.speech_token[:5].tolist(), words) == [0.0] * len(words)


def test_a_model_without_recogniser_has_none(tmp_path: Path) -> None:
    assert token_recogniser(tmp_path, PhoneTextFrontend()) is None
