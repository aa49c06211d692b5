import pytest

from cosyvoice.text.english_numbers import EnglishNumbers


@pytest.fixture(scope="module")
def numbers() -> EnglishNumbers:
    return EnglishNumbers()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no digits & signs", "no digits & signs"),
        (
            "It costs $4.50, or $1,200.",
            "It costs four dollars and fifty cents, or one thousand two hundred dollars.",
        ),
        ("$1 and $0.99 and 25¢", "one dollar and ninety nine cents and twenty five cents"),
        ("$3.2bn or £20 million", "three point two billion dollars or twenty million pounds"),
        ("€15.5", "fifteen point five euros"),
        ("March 3rd, 2021", "the third of march twenty twenty one"),
        ("2021-03-04", "the fourth of march twenty twenty one"),
        ("in 1905, 1999 and 2005", "in nineteen oh five, nineteen ninety nine and two thousand five"),
        ("the 1990s, the '80s", "the nineteen nineties, the eighties"),
        ("1914-1918", "nineteen fourteen to nineteen eighteen"),
        ("at 5:30 PM, at 3:00", "at five thirty PM, at three o'clock"),
        ("the 1st, 2nd and 23rd", "the first, second and twenty third"),
        ("the 2nd-floor flat", "the second-floor flat"),
        ("1,234,567", "one million two hundred thirty four thousand five hundred sixty seven"),
        ("2,500 people, 10,000 km", "two thousand five hundred people, ten thousand kilometers"),
        ("3,000 m", "three thousand meters"),
        ("50% of 3.14", "fifty percent of three point one four"),
        ("-5°C", "negative five degrees Celsius"),
        ("call 555-1234", "call five five five, one two three four"),
        ("24/7, 9/11, call 911!", "twenty four seven, nine eleven, call nine one one!"),
        ("1/2 cup", "one half cup"),
        ("It was 3. Then 4.", "It was three. Then four."),
        ("A/B at 72°F: 5 km", "A/B at seventy two degrees Fahrenheit: five kilometers"),
    ],
)
def test_readings(numbers: EnglishNumbers, text: str, words: str) -> None:
    assert numbers.expand(text) == words


@pytest.mark.parametrize(
    "text", ["#1", "5¢ x9y", "v1.2.3", "0.5.", "3--4", "1e9", "00", "9" * 30, "1,2,3", "1/0", "<5>"]
)
def test_no_digit_is_ever_left(numbers: EnglishNumbers, text: str) -> None:
    assert not any(character.isdigit() for character in numbers.expand(text))
