from __future__ import annotations

import pytest

from cosyvoice.evaluation.scoring_text import NORMALISER_VERSION, cardinal, normalise_for_scoring, ordinal


def test_version_is_pinned_with_the_rules_below() -> None:
    assert NORMALISER_VERSION == "1", "a changed rule needs a new version, and this file new expectations"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Please, open the WINDOW!", "please open the window"),
        ("Don't you know? It's Anna’s.", "don't you know it's anna's"),
        ("'Tis well-known -- 'really'", "tis well known really"),
        ("Mr. Baker & Mrs. Stone", "mister baker and missus stone"),
        ("My neighbour's favourite colour is grey.", "my neighbour's favorite color is gray"),
        ("a café in Zürich", "a cafe in zurich"),
        ("There are 1,205 of 21 trees", "there are one thousand two hundred five of twenty one trees"),
        (
            "in 1905, 1800, 2005 and 2024",
            "in nineteen oh five eighteen hundred two thousand five and twenty twenty four",
        ),
        ("on the 21st and the 12th and the 40th", "on the twenty first and the twelfth and the fortieth"),
        ("It costs $4.50.", "it costs four dollars and fifty cents"),
        ("$1 or $0.99 or $1,000", "one dollar or ninety nine cents or one thousand dollars"),
        ("$0", "zero dollars"),
        ("at 7:30, 7:05 or 7:00", "at seven thirty seven oh five or seven o'clock"),
        ("3.14 is 50%", "three point one four is fifty percent"),
        ("room 007", "room zero zero seven"),
        ("2000000 people", "two million people"),
        ("1234567890123", "one two three four five six seven eight nine zero one two three"),
        ("４２", "forty two"),
        ("  ...  ", ""),
    ],
)
def test_published_readings(text: str, words: str) -> None:
    assert normalise_for_scoring(text) == words.split()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (70, "seventy"),
        (100, "one hundred"),
        (999_999_999_999, None),
        (10**9, "one billion"),
    ],
)
def test_cardinal(number: int, words: str | None) -> None:
    nines = "nine hundred ninety nine"
    expected = words or f"{nines} billion {nines} million {nines} thousand {nines}"
    assert cardinal(number) == expected


def test_ordinals() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 5, 8, 9, 20, 100)] == [
        "first", "second", "third", "fifth", "eighth", "ninth", "twentieth", "one hundredth",
    ]  # fmt: skip


def test_scoring_words_again_changes_nothing() -> None:
    words = normalise_for_scoring("On May 21st, 1999, Mr. O'Neil paid $12.30 at 9:15.")
    assert normalise_for_scoring(" ".join(words)) == words
