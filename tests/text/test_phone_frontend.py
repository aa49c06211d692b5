import subprocess
import sys

import pytest

from cosyvoice.errors import TextError
from cosyvoice.text.phone_frontend import MAX_PHONES, PhoneFrontend
from cosyvoice.text.phones import PUNCTUATION, PhoneTokenizer


@pytest.fixture(scope="module")
def frontend() -> PhoneFrontend:
    return PhoneFrontend()


@pytest.mark.parametrize(
    ("text", "phones"),
    [
        ("Hello, world", "HH AH0 L OW1 , W ER1 L D ."),
        ("Is it you?", "IH1 Z _ IH1 T _ Y UW1 ?"),
        ('"Hello," she said!', "HH AH0 L OW1 , SH IY1 _ S EH1 D !"),
        ("... ok?! Yes", "OW1 K EY1 ? Y EH1 S ."),
        ("yes — no", "Y EH1 S - N OW1 ."),
        ("No (yes)", "N OW1 , Y EH1 S ,"),
        ("green-eyed x-ray", "G R IY1 N _ AY1 D _ EH1 K S R EY1 ."),
        ("the end of the day", "DH IY0 _ EH1 N D _ AH1 V _ DH AH0 _ D EY1 ."),
        ("to go to eat, to", "T AH0 _ G OW1 _ T UW1 _ IY1 T , T UW1 ."),
        ("Café", "K AH0 F EY1 ."),
        ("NO GO US", "N OW1 _ G OW1 _ AH1 S ."),
    ],
)
def test_layout(frontend: PhoneFrontend, text: str, phones: str) -> None:
    assert frontend.phones(text) == phones.split()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Mr. Lee paid $4.50 & left.", "mister Lee paid four dollars and fifty cents and left."),
        ("Dr. Hall came on March 3rd, 2021.", "Doctor Hall came on the third of march twenty twenty one."),
        ("It's 5:30 p.m.", "It's five thirty PM."),
        ("Room #7 at 20%", "Room number seven at twenty percent"),
        ("Henry VIII", "Henry the eighth"),
    ],
)
def test_normalised_text_reads_the_same_as_its_words(frontend: PhoneFrontend, text: str, words: str) -> None:
    assert frontend.normalise(text) == words
    assert frontend.phones(text) == frontend.phones(words)


@pytest.mark.parametrize(
    ("text", "phones"),
    [
        ("say [K AE1 T]!", "S EY1 _ K AE1 T !"),
        ("[M][AY0][N][UW1][T] hi", "M AY0 N UW1 T _ HH AY1 ."),
        ("[AA1]", "AA1 ."),
        ("[K AE2 T], [D AO G] 5", "K AE1 T , D AO1 G _ F AY1 V ."),
        ("[breath] hi <strong>you</strong>[laughter]", "HH AY1 _ Y UW1 ."),
        ("[see you]", "S IY1 _ Y UW1 ."),
    ],
)
def test_tags_pass_through_as_phones(frontend: PhoneFrontend, text: str, phones: str) -> None:
    assert frontend.phones(text) == phones.split()


def test_misspelt_tags_are_refused(frontend: PhoneFrontend) -> None:
    with pytest.raises(TextError, match="'AX' is not a phone"):
        frontend.phones("say [K AX T]")


@pytest.mark.parametrize("text", ["", "  \n", "...!?", "---", "'", "😀", "[]"])
def test_nothing_to_speak_is_an_error(frontend: PhoneFrontend, text: str) -> None:
    for call in (frontend.encode, frontend.split):
        with pytest.raises(TextError, match="nothing to speak"):
            call(text)


@pytest.mark.parametrize("text", ["你好", "hello Привет", "[K AE1 T] 猫"])
def test_other_scripts_are_refused(frontend: PhoneFrontend, text: str) -> None:
    for call in (frontend.encode, frontend.split):
        with pytest.raises(TextError, match="reads English only"):
            call(text)


@pytest.mark.parametrize(
    "text",
    [
        "Zelenskyy's GPUs ran v1.2.3 at 72°F",
        "f(x)=y^2 <b>_ok_</b> \\n {a}",
        "a'b''c -- d-e-f 'tis dogs'",
        "x" * 40,
    ],
)
def test_any_latin_text_gives_ids(frontend: PhoneFrontend, text: str) -> None:
    ids = frontend.encode(text)
    assert PhoneTokenizer().decode(ids) == frontend.phones(text)
    assert frontend.phones(text)[-1] in PUNCTUATION
    assert max(ids) < frontend.vocab_size


LONG = (
    "Some years ago, never mind how long precisely, having little money in my purse, I thought I would sail "
    "about a little and see the watery part of the world. Ok. Mr. Smith paid $1,234,567 on March 3, 2021! "
    "Whenever I find myself growing grim and I find myself involuntarily pausing before windows then I "
    "account it high time to go"
)


def test_long_text_is_split_into_pieces_that_say_the_same(frontend: PhoneFrontend) -> None:
    pieces = frontend.split(LONG)
    assert len(pieces) >= 5
    assert all(len(frontend.phones(piece)) <= MAX_PHONES for piece in pieces)
    assert "$1,234,567" in " ".join(pieces)
    spoken = [phone for piece in pieces for phone in frontend.phones(piece) if phone not in (*PUNCTUATION, "_")]
    assert spoken == [phone for phone in frontend.phones(LONG) if phone not in (*PUNCTUATION, "_")]


def test_short_text_is_one_piece(frontend: PhoneFrontend) -> None:
    assert frontend.split("Hello there. I am glad.") == ["Hello there. I am glad."]


def test_number_engines_are_imported_for_digits_only() -> None:
    script = (
        "import sys; from cosyvoice.text.phone_frontend import PhoneFrontend; f = PhoneFrontend(); "
        "f.phones('Hello, Mr. Lee & all!'); assert not {'wetext', 'torch'} & set(sys.modules); "
        "f.phones('5'); assert 'wetext' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
