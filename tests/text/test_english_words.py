import pytest

from cosyvoice.errors import TextError
from cosyvoice.text.english_words import (
    ends_with_abbreviation,
    expand_abbreviations,
    expand_signs,
    lower_if_shouted,
    plain_latin,
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("café naïve Łódź Straße", "cafe naive Lodz Strasse"),
        ("“it’s”", '"it\'s"'),
        ("yes—no", "yes - no"),
        ("3½", "3 1/2 "),
        ("ﬁne", "fine"),
        ("hi 😀", "hi  "),
    ],
)
def test_plain_latin(text: str, plain: str) -> None:
    assert plain_latin(text) == plain


@pytest.mark.parametrize(("text", "named"), [("hello 你好", "你 好"), ("Это", "Э т о"), ("x ∈ y", "∈"), ("שלום", "ש")])
def test_other_scripts_are_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(TextError, match=f"reads English only and cannot read: .*{named}"):
        plain_latin(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Dr. Smith of 221 Baker St. in St. Louis.", "Doctor Smith of 221 Baker Street in Saint Louis."),
        ("Bowen Dr. is long", "Bowen Drive is long"),
        ("Mr. and Mrs. Jones vs. Prof. Lee", "mister and missus Jones versus professor Lee"),
        ("e.g. this, etc.", "for example this, et cetera."),
        ("at 5 p.m. We left.", "at 5 PM. We left."),
        ("the U.S. Army of the U.S.", "the US Army of the US."),
        ("J. R. Smith", "J R Smith"),
        ("No. 5", "number 5"),
        ("Wait a min. He wed. Then", "Wait a min. He wed. Then"),
        ("Henry VIII in World War II", "Henry the 8th in World War 2"),
        ("I am Louis XIV", "I am Louis the 14th"),
        ("https://example.com", "example dot com"),
    ],
)
def test_abbreviations(text: str, words: str) -> None:
    assert expand_abbreviations(text) == words


def test_signs() -> None:
    assert expand_signs("a&b and/or c").split() == ["a", "and", "b", "and", "or", "c"]


@pytest.mark.parametrize(
    ("text", "words"), [("STOP THAT NOW!", "stop that now!"), ("NASA", "NASA"), ("A USA b", "A USA b")]
)
def test_shouting(text: str, words: str) -> None:
    assert lower_if_shouted(text) == words


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("met Dr.", True),
        ("by J.", True),
        ("so do I.", False),
        ("the end.", False),
        ("e.g.", True),
        ("(Mr.", True),
    ],
)
def test_ends_with_abbreviation(text: str, ends: bool) -> None:
    assert ends_with_abbreviation(text) is ends
