"""Recordings by URL, fetched only from hosts that the operator allows and never from inside the network.

The host is resolved once, every address it has must be public, and the connection goes to the very address that was
checked, so that a name which changes in between gains nothing. Each redirect is checked the same way.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import urljoin, urlsplit

from cosyvoice.server.errors import RequestError
from cosyvoice.server.settings import RemoteAudio

_REDIRECTS = 3
_BLOCK = 1 << 16
Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> list[str]:
    """Addresses of `host`. Raises `OSError` where it has none."""
    return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})


def fetch(url: str, allowed: RemoteAudio, most: int, addresses: Resolve = resolve) -> bytes:
    """The recording at `url`, at most `most` bytes; blocks.

    Raises `RequestError` for a URL that may not be asked, does not answer in time, or holds too much.
    """
    deadline = time.monotonic() + allowed.seconds
    for _ in range(_REDIRECTS + 1):
        host, port, secure, path = _parts(url, allowed)
        address = _public_address(host, port, addresses)
        try:
            answer = _get(host, port, secure, path, address, most, deadline)
        except (OSError, http.client.HTTPException, ValueError):
            raise _refusal(f"{host} did not answer in time or not as expected; send the audio itself") from None
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer)
    raise _refusal("the URL leads from one address to the next; send the last one")


def _parts(url: str, allowed: RemoteAudio) -> tuple[str, int, bool, str]:
    """Host, port, whether encrypted, and path of a URL that may be asked."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower().rstrip("."), parts.port
    except ValueError:
        raise _refusal("the URL cannot be read; check it") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise _refusal("only plain http and https URLs are fetched; send the audio itself")
    if not any(_matches(host, pattern.lower()) for pattern in allowed.hosts):
        raise _refusal("audio of this host is not fetched; send the audio itself, or have the operator allow the host")
    secure = parts.scheme == "https"
    path = parts.path or "/"
    if any(ord(letter) <= 32 or ord(letter) > 126 for letter in path + parts.query):
        raise _refusal("the URL holds characters that must be escaped; check it")
    return host, port or (443 if secure else 80), secure, path + (f"?{parts.query}" if parts.query else "")


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _public_address(host: str, port: int, addresses: Resolve) -> str:
    try:
        found = addresses(host, port)
    except (OSError, UnicodeError):
        raise _refusal(f"{host} has no address; check the URL") from None
    if not found or not all(_is_public(address) for address in found):
        raise _refusal(f"{host} is not on the public internet; send the audio itself")
    return found[0]


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        embedded = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if embedded is not None and not embedded.is_global:
            return False
    return parsed.is_global and not parsed.is_multicast


def _get(host: str, port: int, secure: bool, path: str, address: str, most: int, deadline: float) -> bytes | str:
    """The body, or where a redirect leads."""
    remaining = max(deadline - time.monotonic(), 0.01)
    connection = http.client.HTTPConnection(host, port, timeout=remaining)
    raw = socket.create_connection((address, port), timeout=remaining)
    try:
        stream = ssl.create_default_context().wrap_socket(raw, server_hostname=host) if secure else raw
        connection.sock = stream
        connection.request("GET", path, headers={"Accept": "audio/*", "Accept-Encoding": "identity"})
        answer = connection.getresponse()
        if answer.status in (301, 302, 303, 307, 308):
            return answer.getheader("Location") or ""
        if answer.status != 200:
            raise _refusal(f"{host} answered with status {answer.status}; check the URL")
        parts: list[bytes] = []
        size = 0
        while block := answer.read1(_BLOCK):
            parts.append(block)
            size += len(block)
            if size > most:
                raise _refusal(f"the recording has more than {most} bytes; cut it to 3 to 15 s", status=413)
            if time.monotonic() > deadline:
                raise TimeoutError
            stream.settimeout(max(deadline - time.monotonic(), 0.01))
        return b"".join(parts)
    finally:
        connection.close()
        raw.close()


def _refusal(message: str, status: int = 422) -> RequestError:
    return RequestError(message, status=status, param="ref_audio", code="invalid_audio_url")
