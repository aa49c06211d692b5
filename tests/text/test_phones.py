import pytest

from cosyvoice.errors import TextError
from cosyvoice.text.phones import (
    PHONES,
    SYMBOLS,
    PhoneTokenizer,
    from_synthesiser,
    lay_out_sentence,
    normalise_phone,
    strongest_mark,
)


def test_inventory_has_39_phones_and_a_round_vocabulary() -> None:
    assert len({phone.rstrip("01") for phone in PHONES}) == 39
    assert len(PHONES) == 24 + 2 * 15
    assert len(SYMBOLS) == len(set(SYMBOLS)) == PhoneTokenizer().vocab_size == 96
    assert SYMBOLS[0] == "<pad>"


def test_ids_are_those_that_shipped_weights_were_trained_with() -> None:
    phones = ["HH", "AH0", "L", "OW1", ",", "W", "ER1", "L", "D", "."]
    assert PhoneTokenizer().encode_phones(phones) == [15, 37, 18, 56, 2, 29, 48, 18, 11, 3]


def test_every_symbol_survives_the_round_trip_and_padding_is_dropped() -> None:
    tokenizer = PhoneTokenizer()
    ids = tokenizer.encode_phones(SYMBOLS)
    assert ids == list(range(96))
    assert tokenizer.decode([*ids, tokenizer.pad_id]) == list(SYMBOLS[1:])


@pytest.mark.parametrize("symbol", ["AH", "ah0", "AH2", "x", ""])
def test_unknown_symbols_are_refused_by_name(symbol: str) -> None:
    with pytest.raises(TextError, match="no symbol of the phone inventory"):
        PhoneTokenizer().encode_phones(["K", symbol])


@pytest.mark.parametrize("index", [-1, 96])
def test_ids_outside_the_vocabulary_are_refused(index: int) -> None:
    with pytest.raises(TextError, match="ids run from 0 to 95"):
        PhoneTokenizer().decode([index])


@pytest.mark.parametrize(
    ("name", "stress", "symbols"),
    [
        ("ao", 1, ("AO1",)),
        ("ao", 2, ("AO1",)),
        ("er", 0, ("ER0",)),
        ("ax", 1, ("AH0",)),
        ("axr", 0, ("ER0",)),
        ("el", 0, ("AH0", "L")),
        ("en", 1, ("AH0", "N")),
        ("dx", 1, ("T",)),
        ("k", 1, ("K",)),
        ("HH", 0, ("HH",)),
        ("pau", 0, ()),
    ],
)
def test_synthesiser_names(name: str, stress: int, symbols: tuple[str, ...]) -> None:
    assert from_synthesiser(name, stress) == symbols


def test_every_phone_of_the_synthesisers_set_maps_into_the_inventory() -> None:
    vowels = "aa ae ah ao aw ax ay eh er ey ih iy ow oy uh uw"
    consonants = "b ch d dh f g hh jh k l m n ng p r s sh t th v w y z zh"
    mapped = {
        symbol
        for name in f"{vowels} {consonants}".split()
        for stress in (0, 1)
        for symbol in from_synthesiser(name, stress)
    }
    assert mapped == PHONES


def test_unknown_synthesiser_names_are_refused() -> None:
    with pytest.raises(TextError, match="not a phone"):
        from_synthesiser("qq", 1)


@pytest.mark.parametrize(("phone", "spelling"), [("ah2", "AH1"), ("EY", "EY1"), ("k", "K"), ("IY0", "IY0")])
def test_normalise_phone(phone: str, spelling: str) -> None:
    assert normalise_phone(phone) == spelling


@pytest.mark.parametrize("phone", ["K1", "AH3", "", "_", ","])
def test_normalise_phone_refuses_what_is_no_phone(phone: str) -> None:
    with pytest.raises(TextError):
        normalise_phone(phone)


def test_layout_has_one_boundary_after_every_word_and_ends_in_punctuation() -> None:
    words = [(["HH", "AY1"], ","), (["AY1"], ""), (["S", "IY1"], "")]
    assert lay_out_sentence(words) == ["HH", "AY1", ",", "AY1", "_", "S", "IY1", "."]


def test_layout_keeps_a_final_comma_and_gives_marks_of_silent_words_to_the_word_before() -> None:
    words = [([], "?"), (["HH", "AY1"], ","), ([], "!"), ([], ""), (["AY1"], ",")]
    assert lay_out_sentence(words) == ["HH", "AY1", "!", "AY1", ","]


def test_layout_of_nothing_is_an_error() -> None:
    with pytest.raises(TextError, match="nothing to pronounce"):
        lay_out_sentence([([], ".")])


@pytest.mark.parametrize(("marks", "kept"), [("?!", "?"), ("...", "."), (",-", "-"), ("", ""), ('"', "")])
def test_strongest_mark(marks: str, kept: str) -> None:
    assert strongest_mark(marks) == kept
