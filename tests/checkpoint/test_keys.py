from __future__ import annotations

import pytest

from cosyvoice.checkpoint.keys import is_weight, normalise_key


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("weight_g", "parametrizations.weight.original0"),
        ("a.weight_v", "a.parametrizations.weight.original1"),
        ("a.weight_vx", "a.weight_vx"),
        ("generator.a.weight", "a.weight"),
    ],
)
def test_normalise_key(key: str, expected: str) -> None:
    assert normalise_key(key) == expected


@pytest.mark.parametrize(("key", "expected"), [("epoch", False), ("discriminator.x", False), ("generator.x", True)])
def test_is_weight(key: str, expected: bool) -> None:
    assert is_weight(key) is expected
