from cosyvoice.training.letter_alignment import LetterAligner

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PHONES = ["SH", "IH", "P", "OW", "S", "T", "K"]
WORDS = {
    "ship": "SH IH P", "shop": "SH OW P", "hip": "IH P", "pit": "P IH T", "sit": "S IH T", "so": "S OW",
    "shot": "SH OW T", "spot": "S P OW T", "pox": "P OW K S", "six": "S IH K S", "kit": "K IH T",
    "tip": "T IH P",
}  # fmt: skip


def _ids(words: dict[str, str]) -> tuple[list[list[int]], list[list[int]]]:
    spellings = [[LETTERS.index(letter) for letter in word] for word in words]
    return spellings, [[PHONES.index(phone) for phone in phones.split()] for phones in words.values()]


def test_em_finds_silent_letters_and_double_phones() -> None:
    aligner = LetterAligner(len(LETTERS), len(PHONES))
    spellings, phones = _ids(WORDS)
    aligner.fit(spellings, phones)
    by_word = {list(WORDS)[index]: spans for index, spans in aligner.align(spellings, phones).items()}
    assert by_word.keys() == WORDS.keys()
    assert by_word["six"] == [(0, 1), (1, 2), (2, 4)]
    assert by_word["spot"] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert sorted(end - start for start, end in by_word["ship"][:2]) == [0, 1]


def test_words_with_too_many_phones_are_left_out() -> None:
    aligner = LetterAligner(len(LETTERS), len(PHONES))
    spellings, phones = _ids({"k": "K IH P", "it": "IH T"})
    aligner.fit(spellings, phones, iterations=1)
    assert aligner.align(spellings, phones) == {1: [(0, 1), (1, 2)]}
