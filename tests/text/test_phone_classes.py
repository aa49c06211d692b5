from __future__ import annotations

from cosyvoice.text.phone_classes import CLASSES, PAUSE, phone_class
from cosyvoice.text.phones import CONSONANTS, PHONES


def test_every_phone_has_a_class_and_stress_none() -> None:
    assert len(CLASSES) == 40
    assert {phone_class(phone) for phone in PHONES} == set(range(1, 40))
    assert phone_class(PAUSE) == 0
    assert phone_class("AH0") == phone_class("AH1")
    assert CLASSES[phone_class(CONSONANTS[3])] == CONSONANTS[3]
