from __future__ import annotations

import subprocess
import sys

from cosyvoice.text.inflection import inflect_engine


def test_numbers_are_spelled_out() -> None:
    engine = inflect_engine()
    assert engine.number_to_words(1215, andword="") == "one thousand, two hundred fifteen"
    assert engine.ordinal("twenty one") == "twenty first"


def test_type_checks_are_left_out_of_inflect_and_of_nothing_else() -> None:
    code = """
import typeguard
checked = typeguard.typechecked
from cosyvoice.text.inflection import inflect_engine
inflect_engine()
assert typeguard.typechecked is checked
import inflect
assert "check_argument_types" not in inflect.engine.number_to_words.__code__.co_names
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
