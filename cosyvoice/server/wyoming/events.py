"""Framing of the Wyoming protocol: a line of JSON, then JSON data, then bytes, each of a length that the line tells.

Lengths are checked before anything of them is read, which the package of the protocol does not do; a line could
otherwise ask for all of the memory.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from cosyvoice.server.errors import RequestError

PROTOCOL_VERSION = "1.8.0"
"""Of the events that are spoken here."""


@dataclass(frozen=True)
class Event:
    """What one side tells the other."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""


async def read_event(reader: asyncio.StreamReader, most: int) -> Event | None:
    """The next event, or None where the other side has left; its payload is read and dropped.

    Raises `RequestError` for what is no event, and for one of more than `most` bytes.
    """
    try:
        line = await reader.readline()
    except ValueError:  # longer than the reader's own limit
        raise _malformed("the line of an event is too long") from None
    except ConnectionError:
        return None
    if not line.endswith(b"\n"):
        return None
    header = _object(line)
    kind, data = header.get("type"), header.get("data") or {}
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise _malformed("the line of an event has no type, or data that is no object")
    sizes = [_size(header, name, most) for name in ("data_length", "payload_length")]
    try:
        rest = await reader.readexactly(sizes[0])
        await reader.readexactly(sizes[1])
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return Event(kind, {**data, **_object(rest)} if rest else data)


def encode_event(event: Event) -> bytes:
    """`event` as it is sent."""
    header: dict[str, Any] = {"type": event.type, "version": PROTOCOL_VERSION}
    data = json.dumps(event.data).encode() if event.data else b""
    if data:
        header["data_length"] = len(data)
    if event.payload:
        header["payload_length"] = len(event.payload)
    return json.dumps(header).encode() + b"\n" + data + event.payload


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _malformed("a line or the data of an event is no JSON object")
    return value


def _size(header: dict[str, Any], name: str, most: int) -> int:
    value = header.get(name) or 0
    if not isinstance(value, int) or not 0 <= value <= most:
        raise _malformed(f"the {name} of an event is no number from 0 to {most}")
    return value


def _malformed(message: str) -> RequestError:
    return RequestError(f"{message}; speak the Wyoming protocol", code="invalid_event")
