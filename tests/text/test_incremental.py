import random

import pytest

from cosyvoice.text.incremental import SentenceBuffer, WordBuffer

TEXT = "Good morning, Dr. Miller! The train leaves at 7.30 from platform two. 你好，世界。再见！ Are you ready? Yes"


def cut(text, seed):
    draw = random.Random(seed)
    parts = []
    while text:
        count = draw.randint(1, 9)
        parts.append(text[:count])
        text = text[count:]
    return parts


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_however_the_text_arrives(seed):
    words, sentences = WordBuffer(), SentenceBuffer()
    parts = cut(TEXT, seed)
    assert "".join([words.push(part) for part in parts] + [words.finish()]) == TEXT
    whole = [sentence for part in parts for sentence in sentences.push(part)]
    assert "".join([*whole, sentences.finish()]) == TEXT


def test_a_word_waits_for_its_end():
    words = WordBuffer()
    assert words.push("Good mor") == "Good"
    assert words.push("ning") == ""
    assert words.push(" all") == " morning"
    assert words.finish() == " all"


def test_chinese_needs_no_blank():
    words = WordBuffer()
    assert words.push("你好") == "你好"
    assert words.push("，世") == "，世"


def test_sentences_come_when_they_are_complete():
    sentences = SentenceBuffer()
    assert sentences.push("The train leaves at 7.") == []
    assert sentences.push("30 from here.") == []
    assert sentences.push(" And then") == ["The train leaves at 7.30 from here."]
    assert sentences.finish() == " And then"


def test_titles_and_short_sentences_wait_for_the_next():
    sentences = SentenceBuffer()
    assert sentences.push("Oh. Good morning, Dr. Miller! So") == ["Oh. Good morning, Dr. Miller!"]


def test_text_without_an_end_is_cut_at_a_comma():
    sentences = SentenceBuffer()
    text = "and so it went on, " * 10
    (sentence,) = sentences.push(text)
    assert sentence.endswith(",")
    assert sentence + sentences.finish() == text
