from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from cosyvoice.errors import TextError
from cosyvoice.evaluation.sentences import default_sentences, read_sentences
from cosyvoice.training.corpus import sentences as corpus
from cosyvoice.training.corpus.sentences import sentence_key


def test_there_are_enough_everyday_sentences() -> None:
    sentences = default_sentences()
    assert len({sentence_key(s) for s in sentences}) == len(sentences) >= 48
    for sentence in sentences:
        assert 5 <= len(sentence.split()) <= 12, sentence
        assert re.fullmatch(r"[A-Z][A-Za-z ,']+[.?!]", sentence), sentence


def test_the_generator_of_the_corpus_cannot_make_them() -> None:
    maker = corpus.SentenceMaker()
    lists = {"name": "names", "city": "places", "time": "times", "place": "placements", "half": "minutes"}
    lists |= {"adj": "adjectives", "person": "people", "thing": "things", "adv": "adverbs", "verb": "verbs"}

    def slot(field: str) -> str:
        if field == "digits":
            return "[0-9 ]+"
        words = maker.words.get(lists.get(field.rstrip("2"), ""), [])
        # Numbers, inflected words and the like: any one word.
        return f"(?:{'|'.join(map(re.escape, words))})" if words else r"[\w'.]+"

    patterns = []
    for template in maker.templates:
        parts = re.split(r"\{(\w+)\}", template)
        source = "".join(slot(part) if i % 2 else re.escape(part) for i, part in enumerate(parts))
        patterns.append(re.compile(source, re.IGNORECASE))
    rng = np.random.default_rng(1)
    for sentence in [maker.sentence(rng) for _ in range(50)]:
        assert any(pattern.fullmatch(sentence) for pattern in patterns), sentence
    for sentence in default_sentences():
        assert not any(pattern.fullmatch(sentence) for pattern in patterns), sentence


@pytest.mark.skipif(not corpus.FORTUNES.is_dir(), reason="Debian's fortunes are not installed")
def test_the_fortunes_of_the_corpus_exclude_them() -> None:
    keys = {sentence_key(sentence) for sentence in corpus.fortunes()}
    assert keys
    assert not keys & {sentence_key(sentence) for sentence in default_sentences()}


@pytest.mark.skipif(shutil.which(corpus.BIBLE) is None, reason="Debian's Bible is not installed")
def test_the_bible_of_the_corpus_excludes_them() -> None:
    keys = {sentence_key(sentence) for sentence in corpus.bible()}
    assert keys
    assert not keys & {sentence_key(sentence) for sentence in default_sentences()}


def test_reading_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sentences.txt"
    path.write_text("# comment\nOne two.\n\n  Café 3.  \nOne two.\n", encoding="utf-8")
    assert read_sentences(path) == ["One two.", "Café 3."]
    assert read_sentences() == default_sentences()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), (b"# only\n", "no sentence"), (b"\xff\xfe\x00", "UTF-8")]
)
def test_bad_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "sentences.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TextError, match=message):
        read_sentences(path)
