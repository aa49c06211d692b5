from __future__ import annotations

import pytest

from cosyvoice.text.normalise import Normaliser, replace_blank, spell_out_number


@pytest.fixture(scope="module")
def normaliser() -> Normaliser:
    return Normaliser()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It costs $5.", ("It costs five dollars.", "en")),
        ('He said "stop."', ('He said "stop."', "en")),
        (" 温度是60%， ", ("温度是百分之六十。", "zh")),
        ("面积（大）是m²", ("面积大是m平方", "zh")),
    ],
)
def test_reading(normaliser: Normaliser, text: str, expected: tuple[str, str]) -> None:
    assert normaliser(text) == expected


def test_without_transducers_numbers_are_still_spoken() -> None:
    assert Normaliser("none")("Room 12") == ("Room twelve", "en")


def test_text_that_no_path_reads_is_left_alone(normaliser: Normaliser, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def normalize(self, text: str) -> str:
            raise RuntimeError("no path")

    monkeypatch.setattr(normaliser, "_readers", {"en": Failing()})
    assert normaliser("hello 2") == ("hello two", "en")


def test_numbers_without_a_name_are_read_digit_by_digit() -> None:
    assert spell_out_number("9" * 40).split(", ") == ["nine"] * 40


def test_blanks_at_the_ends_are_dropped() -> None:
    assert replace_blank(" 你 好 a b ") == "你好a b"
