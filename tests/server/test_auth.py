from __future__ import annotations

import pytest

from cosyvoice.server.auth import authenticate, client_of_key
from cosyvoice.server.errors import RequestError
from cosyvoice.server.settings import hash_key

KEYS = (hash_key("first"), hash_key("second"))


def test_without_keys_a_client_is_its_address() -> None:
    assert authenticate((), None, "10.0.0.1") == "address:10.0.0.1"
    assert authenticate((), "Bearer whatever") == "address:unknown"


def test_clients_are_told_apart_by_key_and_the_key_is_not_shown() -> None:
    first, second = (authenticate(KEYS, f"Bearer {key}") for key in ("first", "second"))
    assert first != second
    assert "first" not in first and authenticate(KEYS, "bearer first") == first


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic first", "first", "Bearer third", "Bearer ü"])
def test_anything_else_is_refused(header: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        authenticate(KEYS, header)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


def test_a_digest_is_no_key() -> None:
    """Who reads the digests in a file cannot use them."""
    with pytest.raises(RequestError):
        client_of_key(KEYS, hash_key("first"))
