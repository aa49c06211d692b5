import pytest

from cosyvoice.text.phones import CONSONANTS, PHONES
from cosyvoice.training.phone_classes import CLASSES, PAUSE, edit_distance, phone_class


def test_every_phone_has_a_class_and_stress_none():
    assert len(CLASSES) == 40
    assert {phone_class(phone) for phone in PHONES} == set(range(1, 40))
    assert phone_class(PAUSE) == 0
    assert phone_class("AH0") == phone_class("AH1")
    assert CLASSES[phone_class(CONSONANTS[3])] == CONSONANTS[3]


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("abc", "abc", 0), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_edit_distance(a, b, distance):
    assert edit_distance(list(map(ord, a)), list(map(ord, b))) == distance
