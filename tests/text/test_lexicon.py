import time
from pathlib import Path

import pytest

from cosyvoice.errors import ModelError
from cosyvoice.text.lexicon import LEXICON_FILE, Lexicon, pack_lexicon
from cosyvoice.text.phones import PHONES


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon()


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("hello", "HH AH0 L OW1"),
        ("the", "DH AH0"),
        ("an", "AH0 N"),
        ("wind", "W IH1 N D"),
        ("don't", "D OW1 N T"),
        ("x-ray", "EH1 K S R EY1"),
    ],
)
def test_pronunciations(lexicon: Lexicon, word: str, phones: str) -> None:
    assert lexicon.get(word) == phones.split()
    assert word in lexicon


def test_unknown_words_have_no_pronunciation(lexicon: Lexicon) -> None:
    assert lexicon.get("xyzzyx") is None
    assert "xyzzyx" not in lexicon


def test_all_entries_are_phones_of_the_inventory(lexicon: Lexicon) -> None:
    words = lexicon.words()
    assert len(words) == len(lexicon) > 120_000
    assert {phone for word in words[::7] for phone in lexicon.get(word) or ["none"]} <= PHONES


def test_file_is_small_loads_quickly_and_not_before_it_is_needed() -> None:
    assert LEXICON_FILE.stat().st_size < 1_300_000
    assert (LEXICON_FILE.parent / "LICENSE.cmudict").read_text().count("Copyright (C) 1993-2015 Carnegie Mellon") == 1
    begin = time.process_time()
    lexicon = Lexicon()
    assert time.process_time() - begin < 0.01
    lexicon.get("hello")
    assert time.process_time() - begin < 0.5


def test_packed_words_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "small.xz"
    path.write_bytes(pack_lexicon({"zoo": ["Z", "UW1"], "ant": ["AE1", "N", "T"]}))
    lexicon = Lexicon(path)
    assert lexicon.words() == ["ant", "zoo"]
    assert lexicon.get("zoo") == ["Z", "UW1"]


@pytest.mark.parametrize("content", [None, b"", b"rubbish", LEXICON_FILE.read_bytes()[:1000]])
def test_missing_and_damaged_files_are_model_errors(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "lexicon.xz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="reinstall"):
        Lexicon(path).get("hello")
