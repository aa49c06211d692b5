from pathlib import Path

import pytest

from cosyvoice.errors import ModelError, TextError
from cosyvoice.text.letter_to_sound import MODEL_FILE, LetterToSound, letter_ids
from cosyvoice.text.lexicon import Lexicon
from cosyvoice.text.phones import PHONES


@pytest.fixture(scope="module")
def model() -> LetterToSound:
    return LetterToSound()


def test_weights_are_small() -> None:
    assert MODEL_FILE.stat().st_size <= 1_000_000


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("blick", "B L IH1 K"),
        ("mibbet", "M IH1 B AH0 T"),
        ("splane", "S P L EY1 N"),
        ("troshing", "T R AA1 SH IH0 NG"),
    ],
)
def test_regular_new_words(model: LetterToSound, word: str, phones: str) -> None:
    assert model.pronounce(word) == phones.split()


def test_known_words_mostly_agree_with_the_lexicon(model: LetterToSound) -> None:
    lexicon = Lexicon()
    words = [word for word in lexicon.words() if word.isascii() and word.isalpha()][50::600]
    right = sum(model.pronounce(word) == lexicon.get(word) for word in words)
    assert right / len(words) > 0.55


@pytest.mark.parametrize("word", ["b", "q", "zzzz", "aaaaaaaaaaaaaaaaaaaa", "hhh"])
def test_odd_words_still_say_something(model: LetterToSound, word: str) -> None:
    phones = model.pronounce(word)
    assert phones
    assert set(phones) <= PHONES


@pytest.mark.parametrize("word", ["", "naïve", "Hello", "a-b", "4"])
def test_other_characters_are_refused(word: str) -> None:
    with pytest.raises(TextError, match="a to z"):
        letter_ids(word)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04rubbish"])
def test_missing_and_damaged_weights_are_model_errors(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="reinstall"):
        LetterToSound(path).pronounce("word")
