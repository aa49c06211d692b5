import pytest

from cosyvoice.text.piece_splitting import split_pieces


def pieces(text: str, longest: int, shortest: int = 0) -> list[str]:
    return split_pieces(text, lambda part: sum(map(str.isalnum, part)), longest, shortest)


@pytest.mark.parametrize(
    ("text", "longest", "expected"),
    [
        ("One two. Three!", 9, ["One two.", "Three!"]),
        ("One two. Three!", 90, ["One two.", "Three!"]),
        ("One two, three four", 12, ["One two,", "three four"]),
        ("One two and three four", 12, ["One two,", "and three four"]),
        ("One two three four", 9, ["One two,", "three four"]),
        ("met Dr. Brown there", 90, ["met Dr. Brown there"]),
        ('He said "no." She left', 90, ['He said "no."', "She left"]),
        ("unsplittable", 4, ["unsplittable"]),
        ("... !", 4, []),
    ],
)
def test_cuts(text: str, longest: int, expected: list[str]) -> None:
    assert pieces(text, longest) == expected


def test_numbers_and_tags_stay_whole() -> None:
    text = "aaaa 1,000 000 bbbb May 3, 2021 [K AE1 T] cccc"
    for longest in range(1, 30):
        joined = " | ".join(pieces(text, longest))
        assert all(part in joined for part in ("1,000 000", "3, 2021", "[K AE1 T]"))


def test_short_pieces_join_a_neighbour_that_has_room() -> None:
    assert pieces("Hi. How are you? Fine.", 30, shortest=5) == ["Hi. How are you? Fine."]
    assert pieces("Hi. How are you? Fine.", 12, shortest=5) == ["Hi. How are you?", "Fine."]
