"""Who a client is: by API key, or by address where no key is asked for.

A key is compared as a digest with every digest that is known, in constant time, so neither the time nor the order tells
anything about the keys.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

from cosyvoice.server.errors import RequestError
from cosyvoice.server.settings import hash_key

_SHOWN_DIGITS = 12


def authenticate(keys: Sequence[str], authorization: str | None, address: str | None = None) -> str:
    """Name of the client behind an `Authorization: Bearer KEY` header; limits are counted by it.

    Args:
        keys: digests of the keys that are accepted; without any, everybody is let in.
        authorization: the header.
        address: of the client.

    Raises `RequestError` with status 401.
    """
    if not keys:
        return f"address:{address or 'unknown'}"
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise _refusal("no API key was sent; send the header 'Authorization: Bearer KEY'")
    return client_of_key(keys, key.strip())


def client_of_key(keys: Sequence[str], key: str) -> str:
    """Name of the client with this key. Raises `RequestError` with status 401 for a key that is not accepted."""
    presented = hash_key(key).encode()
    accepted = None
    for known in keys:
        if hmac.compare_digest(presented, known.encode()):
            accepted = known
    if accepted is None:
        raise _refusal("this API key is not accepted; check it")
    return f"key:{accepted.removeprefix('sha256:')[:_SHOWN_DIGITS]}"


def login_with_key(keys: Sequence[str]) -> Callable[[str, str], bool]:
    """A check of the name and password of a login: any name, and an accepted key for the password."""

    def check(name: str, password: str) -> bool:
        try:
            client_of_key(keys, password.strip())
        except RequestError:
            return False
        return True

    return check


def _refusal(message: str) -> RequestError:
    return RequestError(message, status=401, kind="authentication_error", code="invalid_api_key")
