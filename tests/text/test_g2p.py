import pytest

from cosyvoice.errors import TextError
from cosyvoice.text.g2p import Pronouncer, past, plural
from cosyvoice.text.letter_to_sound import LetterToSound
from cosyvoice.text.phones import PHONES


class NoLetterToSound(LetterToSound):
    """Fails where a word should have been pronounced without the learned model."""

    def pronounce(self, word: str) -> list[str]:
        raise AssertionError(f"{word} was left to the learned model")


@pytest.fixture(scope="module")
def rules() -> Pronouncer:
    return Pronouncer(letter_to_sound=NoLetterToSound())


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("Hello", "HH AH0 L OW1"),
        ("a", "AH0"),
        ("B", "B IY1"),
        ("don't", "D OW1 N T"),
        ("I'll", "AY1 L"),
        ("tablet's", "T AE1 B L AH0 T S"),
        ("laptops'", "L AE1 P T AA1 P S"),
        ("rebooted", "R IY0 B UW1 T IH0 D"),
        ("selfies", "S EH1 L F IY1 Z"),
        ("rated", "R EY1 T IH0 D"),
        ("smartwatch", "S M AA1 R T W AA1 CH"),
        ("well-known", "W EH1 L N OW1 N"),
        ("x-ray", "EH1 K S R EY1"),
        ("nooooo", "N OW1"),
    ],
)
def test_words_from_the_lexicon_and_their_derivations(rules: Pronouncer, word: str, phones: str) -> None:
    assert rules.pronounce(word) == phones.split()


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("US", "Y UW1 EH1 S"),
        ("us", "AH1 S"),
        ("NASA", "N AE1 S AH0"),
        ("GPU", "JH IY1 P IY1 Y UW1"),
        ("GPUs", "JH IY1 P IY1 Y UW1 Z"),
        ("HTTP", "EY1 CH T IY1 T IY1 P IY1"),
        ("html", "EY1 CH T IY1 EH1 M EH1 L"),
        ("A", "AH0"),
        ("ChatGPT", "CH AE1 T JH IY1 P IY1 T IY1"),
    ],
)
def test_abbreviations_are_spelled(rules: Pronouncer, word: str, phones: str) -> None:
    assert rules.pronounce(word) == phones.split()


@pytest.mark.parametrize("word", ["Zelenskyy", "Kubernetes", "COVID", "Mbappe", "Nguyenova", "O'Grarkin", "d'Artagnan"])
def test_names_are_left_to_the_learned_model(word: str) -> None:
    phones = Pronouncer().pronounce(word)
    assert set(phones) <= PHONES
    assert any(phone[-1] in "01" for phone in phones)


def test_capitals_of_alternating_letters_are_said_as_a_word() -> None:
    assert Pronouncer().pronounce("COVID") == Pronouncer().pronounce("covid")


@pytest.mark.parametrize("word", ["", "'", "-", "naïve", "two words", "4"])
def test_what_is_no_word_is_refused(rules: Pronouncer, word: str) -> None:
    with pytest.raises(TextError, match="letters A to Z"):
        rules.pronounce(word)


@pytest.mark.parametrize(
    ("stem", "ending"),
    [("B AH1 S", "IH0 Z"), ("K AE1 T", "S"), ("D AO1 G", "Z"), ("B OY1", "Z"), ("CH ER1 CH", "IH0 Z")],
)
def test_plural_ending(stem: str, ending: str) -> None:
    assert plural(stem.split()) == f"{stem} {ending}".split()


@pytest.mark.parametrize(
    ("stem", "ending"),
    [("W AO1 K", "T"), ("P L EY1", "D"), ("N IY1 D", "IH0 D"), ("K IH1 S", "T"), ("B AH1 Z", "D")],
)
def test_past_ending(stem: str, ending: str) -> None:
    assert past(stem.split()) == f"{stem} {ending}".split()
