"""The language of a text: checked by every model, told to those that read a mark of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cosyvoice
from cosyvoice.engine.pipeline import TTS
from cosyvoice.errors import ConfigError
from cosyvoice.voice.voice import Voice

PARITY = Path(__file__).parents[1] / "data" / "parity"


@pytest.fixture(scope="module")
def first() -> tuple[TTS, Voice]:
    tts = cosyvoice.load(PARITY / "v1" / "model")
    return tts, tts.clone(PARITY / "wav" / "prompt_24k.wav", name="prompt")


def heard_texts(tts: TTS, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Text tokens that the language model is given from now on."""
    texts: list[list[int]] = []
    generate = tts.model.generate

    def watched(text: Any, *arguments: Any) -> Any:
        texts.append(list(text))
        return generate(text, *arguments)

    monkeypatch.setattr(tts.model, "generate", watched)
    return texts


def test_the_first_generation_reads_a_mark_before_every_piece(
    first: tuple[TTS, Voice], monkeypatch: pytest.MonkeyPatch
) -> None:
    tts, voice = first
    texts = heard_texts(tts, monkeypatch)
    mark = tts.model.stages.text.encode("<|en|>")
    assert len(mark) == 1
    for language in (None, "en"):
        texts.clear()
        assert len(tts.say("Hello there, it is 5 o'clock.", voice, seed=1, language=language).samples)
        assert [text[:1] == mark for text in texts] == [language is not None] * len(texts)
        plain = [text[1:] if language else text for text in texts]
        assert plain[0] == tts.model.stages.text.encode("Hello there, it is five o'clock.")


def test_what_is_not_read_is_refused_before_anything_is_computed(first: tuple[TTS, Voice]) -> None:
    tts, voice = first
    with pytest.raises(ConfigError, match="does not read 'de'; use one of zh, en, ja, yue, ko"):
        tts.stream("Guten Tag.", voice, language="de")


def test_to_the_third_generation_it_makes_no_difference() -> None:
    tts = cosyvoice.load(PARITY / "v3" / "model")
    voice = tts.clone(PARITY / "wav" / "prompt_24k.wav", name="prompt")
    told, plain = (tts.say("Hello there.", voice, seed=1, language=language) for language in ("de", None))
    np.testing.assert_array_equal(told.samples, plain.samples)
    assert tts.model.language_mark("de") == ""
