from __future__ import annotations

import pytest

from cosyvoice.errors import TextError
from cosyvoice.text.split import cut_sentences, split_paragraph


@pytest.mark.parametrize(
    ("text", "kept", "lost"),
    [
        ("One. Two", ["One.", " Two."], ["One.", " Two."]),
        ("What?! Yes", ["What?!", " Yes."], ["What?", " Yes."]),
        ('He said "go." Then', ['He said "go."', " Then."], ['He said "go."', " Then."]),
        ('He said "go!".', ['He said "go!".'], ['He said "go!"']),
        ('He said "go!"', ['He said "go!"'], ['He said "go!"']),
        ('He said "go"', ['He said "go".'], ['He said "go".']),
        ("Wait... no", ["Wait...", " no."], ["Wait.", " no."]),
        ("It costs 2.50. Now", ["It costs 2.50.", " Now."], ["It costs 2.", "50.", " Now."]),
        ('."x', ['."', "x."], ['"x.']),
        ("...", ["..."], []),
        ('"', ['".'], ['".']),
    ],
)
def test_cut_english(text: str, kept: list[str], lost: list[str]) -> None:
    assert cut_sentences(text, "en") == kept
    assert cut_sentences(text, "en", keep_marks=False) == lost


@pytest.mark.parametrize("text", ["真的？！", "好。。。再见……", '他说："走！"，然后', "3.14。"])
@pytest.mark.parametrize("comma_split", [False, True])
def test_nothing_is_lost(text: str, comma_split: bool) -> None:
    joined = "".join(cut_sentences(text, "zh", comma_split=comma_split))
    assert joined.removesuffix("。") == text.removesuffix("。")


def test_cut_chinese_and_commas() -> None:
    assert cut_sentences("你好，世界。好", "zh") == ["你好，世界。", "好。"]
    assert cut_sentences("你好，世界。", "zh", comma_split=True) == ["你好，", "世界。"]


def test_pieces_are_full_but_not_overfull() -> None:
    text = "今天天气真的很好。" * 30
    pieces = split_paragraph(text, list, "zh")
    assert "".join(pieces) == text
    assert all(60 < len(piece) <= 80 for piece in pieces[:-1])


def test_a_short_tail_joins_the_piece_before() -> None:
    text = "word " * 19 + "end. tail"
    options = {"token_max_n": 20, "token_min_n": 10}
    assert len(split_paragraph(text, str.split, "en", merge_len=5, **options)) == 1
    assert len(split_paragraph(text, str.split, "en", merge_len=1, **options)) == 2


def test_empty_text_is_refused() -> None:
    with pytest.raises(TextError, match="empty"):
        split_paragraph("", list)
