from __future__ import annotations

import pytest

from cosyvoice.text.normalise import spell_out_number
from cosyvoice.text.number_words import LARGEST, cardinal, digit_by_digit, ordinal


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (115, "one hundred and fifteen"),
        (1000, "one thousand"),
        (1001, "one thousand and one"),
        (1100, "one thousand, one hundred"),
        (10_000_000, "ten million"),
        (2_000_040, "two million and forty"),
        (5_012_000, "five million, twelve thousand"),
        (12_345_678, "twelve million, three hundred and forty-five thousand, six hundred and seventy-eight"),
    ],
)
def test_cardinals(number: int, words: str) -> None:
    assert cardinal(number) == words
    assert cardinal(number, "") == words.replace(" and ", " ")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zeroth"),
        (1, "first"),
        (12, "twelfth"),
        (20, "twentieth"),
        (33, "thirty-third"),
        (100, "one hundredth"),
        (108, "one hundred and eighth"),
        (1_000_000, "one millionth"),
    ],
)
def test_ordinals(number: int, words: str) -> None:
    assert ordinal(number) == words


def test_every_named_number_can_be_read_back() -> None:
    """The words of a number, added up again, are the number."""
    values = {cardinal(n): n for n in range(100)}
    scales = {cardinal(1000**k).split()[1]: 1000**k for k in range(1, 12)}
    for number in [*range(100, 3000, 7), *(37**k for k in range(2, 23)), *(10**k for k in range(36)), LARGEST]:
        total = group = 0
        for word in cardinal(number).replace(",", "").replace(" and ", " ").split():
            if word == "hundred":
                group *= 100
            elif word in scales:
                total, group = total + group * scales[word], 0
            else:
                group += values[word]
        assert total + group == number


def test_numbers_without_a_name_are_read_digit_by_digit() -> None:
    assert cardinal(LARGEST + 1).split(", ") == ["one", *["zero"] * 36]
    assert digit_by_digit("907") == "nine, zero, seven"


def test_digits_of_other_scripts_and_superscripts() -> None:
    assert spell_out_number("١٢ m² 007") == "twelve mzero seven"
