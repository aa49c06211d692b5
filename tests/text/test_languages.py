from __future__ import annotations

import pytest

from cosyvoice.text.languages import language_code, language_name


@pytest.mark.parametrize(
    ("text", "code"),
    [("English", "en"), (" GERMAN ", "de"), ("en-US", "en"), ("zh_Hans_CN", "zh"), ("yue", "yue"), ("Auto", "auto")],
)
def test_languages_are_known_by_name_and_code(text: str, code: str) -> None:
    assert language_code(text) == code


@pytest.mark.parametrize("text", ["Klingonese!", "e", "english please", "12", "en-", "\0"])
def test_what_is_no_language_has_no_code(text: str) -> None:
    assert language_code(text) is None


def test_codes_have_a_name() -> None:
    assert [language_name(code) for code in ("zh", "yue", "en", "xx")] == ["Chinese", "Cantonese", "English", "xx"]
