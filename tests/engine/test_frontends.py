from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cosyvoice.engine.frontends import PhoneTextFrontend, QwenTextFrontend, check_speakable
from cosyvoice.errors import MissingDependencyError, TextError


@pytest.fixture(scope="module")
def phones() -> PhoneTextFrontend:
    return PhoneTextFrontend()


@pytest.fixture(scope="module")
def qwen(released_model_dir: Path) -> QwenTextFrontend:
    return QwenTextFrontend(released_model_dir / "CosyVoice-BlankEN")


@pytest.mark.parametrize("text", ["", "  \n\t ", "...", "?! -", "。，", "¿ ?", "$ €"])
def test_nothing_to_speak(phones: PhoneTextFrontend, qwen: QwenTextFrontend, text: str) -> None:
    for frontend in (phones, qwen):
        with pytest.raises(TextError, match=r"empty|only punctuation"):
            frontend.split(text)


@pytest.mark.parametrize("text", ["你好，世界。", "Привет", "مرحبا", "नमस्ते", "こんにちは", "Hello 世界"])
def test_the_small_model_speaks_latin_script_only(phones: PhoneTextFrontend, text: str) -> None:
    with pytest.raises(TextError):
        phones.split(text)


@pytest.mark.parametrize("text", ["مرحبا", "नमस्ते दुनिया", "Hello שלום", "สวัสดี"])
def test_released_models_refuse_scripts_they_never_saw(qwen: QwenTextFrontend, text: str) -> None:
    with pytest.raises(TextError, match="a script that the model never saw"):
        qwen.split(text)


@pytest.mark.parametrize(
    "text", ["你好，世界。", "Привет, мир.", "こんにちは。", "안녕하세요.", "Grüße, café!", "α and β"]
)
def test_released_models_take_scripts_they_saw(qwen: QwenTextFrontend, text: str) -> None:
    assert qwen.split(text)


def test_phones_are_counted(phones: PhoneTextFrontend) -> None:
    assert phones.count_phones("Hello, world.") == 8
    assert len(phones.encode("Hello, world.")) == 10


def test_phones_are_estimated_from_characters(qwen: QwenTextFrontend) -> None:
    assert 8 <= qwen.count_phones("Hello, world.") <= 10
    assert 9 <= qwen.count_phones("你好世界") <= 12
    assert qwen.count_phones("<|endofprompt|>[laughter]<strong></strong>") == 0


def test_transcripts_are_read_as_text_is(qwen: QwenTextFrontend) -> None:
    assert qwen.encode_prompt("I have 3.") == qwen.encode("I have three.")
    marked = "Be quick.<|endofprompt|>I have 3."
    assert qwen.encode_prompt(marked) == qwen.encode(marked)


def test_words_pass() -> None:
    check_speakable("... and?")


def test_the_text_of_released_models_needs_their_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cosyvoice.text.qwen_tokenizer", None)
    with pytest.raises(MissingDependencyError, match=r"cosyvoice\[released\]"):
        QwenTextFrontend(tmp_path)
