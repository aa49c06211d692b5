from __future__ import annotations

import pytest

from cosyvoice.errors import TextError
from cosyvoice.text.phone_frontend import PhoneFrontend
from cosyvoice.text.written_words import written_words


@pytest.fixture(scope="module")
def frontend() -> PhoneFrontend:
    return PhoneFrontend()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world!", {"Hello,": "HH AH0 L OW1", "world!": "W ER1 L D"}),
        ("Dr. Lee", {"Dr.": "D AA1 K T ER0", "Lee": "L IY1"}),
        ("yes — no", {"yes —": "Y EH1 S", "no": "N OW1"}),
        ("... “so” it was", {"“so”": "S OW1", "it": "IH1 T", "was": "W AA1 Z"}),
        ("a [K AE1 T], a dog", {"a": "AH0", "[K AE1 T],": "K AE1 T", "dog": "D AO1 G"}),
        ("the <|en|> end [breath]", {"the": "DH IY0", "end [breath]": "EH1 N D"}),
    ],
)
def test_words_are_those_written_with_the_phones_spoken(
    frontend: PhoneFrontend, text: str, words: dict[str, str]
) -> None:
    found = {word.text: " ".join(word.phones) for word in written_words(frontend, text)}
    assert found == words


def test_a_sum_is_one_word_with_all_its_phones(frontend: PhoneFrontend) -> None:
    words = written_words(frontend, "It cost $4.50 today.")
    assert [word.text for word in words] == ["It", "cost", "$4.50", "today."]
    assert len(words[2].phones) > 15


def test_a_date_that_is_read_in_another_order_keeps_its_neighbours(frontend: PhoneFrontend) -> None:
    words = {word.text: word.phones for word in written_words(frontend, "It is on July 5, 2019.")}
    assert words["on"] == ("AA1", "N")
    assert {"July", "5,", "2019."} <= words.keys()
    assert words["5,"][-2:] == ("L", "AY1"), "the last word spoken before the year"


@pytest.mark.parametrize("text", ["The meeting is on July 5, 2019, at 10:30 — or so (Mr. Lee said).", "X & Y, 50%!"])
def test_no_word_and_no_phone_is_lost(frontend: PhoneFrontend, text: str) -> None:
    words = written_words(frontend, text)
    assert " ".join(word.text for word in words) == text
    spoken = [phone for word in frontend.spoken_words(text) for phone in word.phones]
    assert [phone for word in words for phone in word.phones] == spoken


@pytest.mark.parametrize(("text", "message"), [("你好 there", "English text only"), ("...", "nothing to speak")])
def test_what_is_refused(frontend: PhoneFrontend, text: str, message: str) -> None:
    with pytest.raises(TextError, match=message):
        written_words(frontend, text)
