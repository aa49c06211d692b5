import numpy as np
import pytest

from cosyvoice.errors import MissingDependencyError
from cosyvoice.training.corpus import sentences
from cosyvoice.training.corpus.sentences import (
    SPLITS,
    SentenceMaker,
    bible,
    fortunes,
    plural,
    sentence_pool,
    split_of,
    usable,
)


@pytest.fixture
def small_sources(monkeypatch):
    rng = np.random.default_rng(5)
    maker = SentenceMaker()
    pools = [[maker.sentence(rng) for _ in range(300)] for _ in range(2)]
    monkeypatch.setattr(sentences, "fortunes", lambda: pools[0])
    monkeypatch.setattr(sentences, "bible", lambda: pools[1])


def test_a_sentence_keeps_its_split_whatever_its_punctuation():
    assert split_of("Hello there, my friend.") == split_of("hello there my friend")
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(SPLITS, 0)
    maker = SentenceMaker()
    for _ in range(4000):
        counts[split_of(maker.sentence(rng))] += 1
    assert counts["validation"] / 4000 == pytest.approx(0.02, abs=0.008)
    assert counts["test"] / 4000 == pytest.approx(0.03, abs=0.009)


def test_splits_share_no_sentence_and_do_not_depend_on_the_size(small_sources):
    small, large = (sentence_pool(1, size, (0.3, 0.1, 0.6)) for size in (300, 600))
    keys = [{sentence.lower().rstrip(".?!") for sentence in large[split]} for split in SPLITS]
    assert all(not keys[i] & keys[j] for i in range(3) for j in range(i))
    assert all(split_of(sentence) == split for split in SPLITS for sentence in small[split] + large[split])


def test_a_pool_is_drawn_from_its_seed(small_sources):
    first = sentence_pool(1, 300, (0.3, 0.1, 0.6))
    assert first == sentence_pool(1, 300, (0.3, 0.1, 0.6))
    assert first != sentence_pool(2, 300, (0.3, 0.1, 0.6))
    assert sum(map(len, first.values())) == 300


def test_sentences_that_judge_the_model_are_left_out(small_sources):
    everything = sentence_pool(1, 300, (0.3, 0.1, 0.6))
    barred = everything["train"][0]
    rest = sentence_pool(1, 300, (0.3, 0.1, 0.6), excluded=[barred.upper() + " !"])
    assert rest == everything | {"train": everything["train"][1:]}


def test_generated_sentences_are_filled_and_mostly_usable():
    rng = np.random.default_rng(1)
    maker = SentenceMaker()
    made = [maker.sentence(rng) for _ in range(500)]
    assert not any(set("{}_") & set(sentence) for sentence in made)
    assert all(sentence[0].isupper() and sentence[-1] in ".?!" for sentence in made)
    assert sum(map(usable, made)) > 400
    assert len(set(made)) > 480


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The green book is on the table.", True),
        ("Two words.", False),
        (" ".join(["word"] * 15), False),
        ("The NASA launch was late.", False),
        ("See www.example.com for the rest.", False),
        ("The café is near the river.", False),
        ("1 2 3 4 are four numbers", False),
        ("It was 1984 when we met.", True),
    ],
)
def test_usable(sentence, expected):
    assert usable(sentence) is expected


@pytest.mark.parametrize(
    ("noun", "plurals"),
    [("book", "books"), ("church", "churches"), ("baby", "babies"), ("boy", "boys"), ("man", "men")],
)
def test_plural(noun, plurals):
    assert plural(noun) == plurals


def test_fortunes_are_read_without_their_sources_and_repetitions(tmp_path, monkeypatch):
    monkeypatch.setattr(sentences, "FORTUNES", tmp_path)
    (tmp_path / "wisdom").write_text(
        "The early bird\ncatches the worm.  No.\n\t\t-- Some Body Wrote This Line\n%\n"
        "The early bird catches the worm.\n%\n"
    )
    (tmp_path / "wisdom.dat").write_text("This is an index of the file.")
    (tmp_path / "perl").write_text("This is a file we skip.")
    assert fortunes() == ["The early bird catches the worm."]


def test_bible_is_cut_into_clauses(tmp_path, monkeypatch):
    command = tmp_path / "bible"
    command.write_text(
        "#!/bin/sh\necho 'Gen1:1 In the beginning was a test: and it was good;'\necho 'Gen1:2 And it was good.'\n"
    )
    command.chmod(0o755)
    monkeypatch.setattr(sentences, "BIBLE", str(command))
    assert bible() == ["In the beginning was a test.", "and it was good.", "And it was good."]


def test_missing_texts_name_their_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(sentences, "FORTUNES", tmp_path / "none")
    monkeypatch.setattr(sentences, "BIBLE", str(tmp_path / "none"))
    with pytest.raises(MissingDependencyError, match="apt-get install fortunes"):
        fortunes()
    with pytest.raises(MissingDependencyError, match="apt-get install bible-kjv"):
        bible()
