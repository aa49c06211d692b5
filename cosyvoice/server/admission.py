"""Who is let in: limits on what runs, waits and is expected, for all clients and for each.

A request that does not fit is refused at once with the time after which it is worth to come again, rather than kept
in a line that nobody waits for. Refusal is by count and by seconds of speech, since a hundred words cost as much as
fifty requests for two.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cosyvoice.server.errors import RequestError
from cosyvoice.server.settings import Limits

_SECONDS_PER_LETTER = 0.065
_SECONDS_PER_WIDE_LETTER = 0.22
_WIDE_FROM = 0x2E80
"""First code point of the scripts that write a syllable as a letter."""
_LONGEST_RETRY = 60
_IDLE_CLIENTS = 1024
"""Clients without a running request whose rate is remembered."""


@dataclass
class _Client:
    """What one client uses, and a bucket of requests that fills with time."""

    requests: int = 0
    tokens: float = 0.0
    filled_at: float = 0.0


@dataclass(eq=False)
class Ticket:
    """A place among the requests that run or wait. `leave` it in the end, whatever happened."""

    client: str
    seconds: float
    """Expected speech."""
    _admission: Admission = field(repr=False)
    running: bool = False
    left: bool = False

    def start(self) -> None:
        """The request begins to speak."""
        self._admission._start(self)

    def leave(self) -> None:
        """The request has ended; further calls do nothing."""
        self._admission._leave(self)


class Admission:
    """Counts requests; safe from many threads.

    Args:
        limits: of the server.
        clock: seconds that only go forward.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._clients: dict[str, _Client] = {}
        self._closed = False
        self._pace = 1.0
        self.running = 0
        self.waiting = 0
        self.audio_seconds = 0.0
        """Expected speech of all who run or wait."""

    def admit(self, client: str, seconds: float) -> Ticket:
        """A ticket for a request of `client` for about `seconds` of speech.

        Raises `RequestError` with status 429 where a limit is reached, 503 where the server is shutting down.
        """
        with self._lock:
            self._check(client, seconds)
            self._client(client).requests += 1
            self.waiting += 1
            self.audio_seconds += seconds
        return Ticket(client, seconds, self)

    def close(self) -> None:
        """Let nobody in from now on."""
        with self._lock:
            self._closed = True

    def note_pace(self, speech_seconds: float, work_seconds: float) -> None:
        """A request took `work_seconds` for its speech; what clients are told to wait follows from it."""
        if work_seconds > 0 and speech_seconds > 0:
            with self._lock:
                self._pace += 0.2 * (speech_seconds / work_seconds - self._pace)

    def retry_after(self) -> int:
        """Seconds until about half of the expected speech is spoken."""
        pace = max(self._pace * max(self.running, 1), 0.05)
        return max(1, min(_LONGEST_RETRY, math.ceil(self.audio_seconds / 2 / pace)))

    def _check(self, client: str, seconds: float) -> None:
        limits = self._limits
        if self._closed:
            raise RequestError(
                "the server is shutting down; try again in a moment",
                status=503, kind="server_error", code="shutting_down", retry_after=5,
            )  # fmt: skip
        if seconds > limits.audio_seconds:
            raise RequestError(
                f"about {seconds:.0f} s of speech are more than this server takes on ({limits.audio_seconds:.0f} s); "
                "send less text",
                status=413, param="input", code="text_too_long",
            )  # fmt: skip
        used = self._client(client)
        self._fill(used)
        if limits.key_concurrency and used.requests >= limits.key_concurrency:
            raise self._refusal(f"{used.requests} requests of this client are under way", "too_many_requests")
        if limits.key_requests_per_minute and used.tokens < 1:
            wait = math.ceil((1 - used.tokens) * 60 / limits.key_requests_per_minute)
            raise self._refusal("this client has sent too many requests in a minute", "rate_limit_exceeded", wait)
        if self.running + self.waiting >= limits.running + limits.queue:
            raise self._refusal(f"{self.waiting} requests wait already", "queue_full")
        if self.audio_seconds + seconds > limits.audio_seconds:
            raise self._refusal(f"{self.audio_seconds:.0f} s of speech are asked for already", "server_busy")
        used.tokens -= 1

    def _refusal(self, cause: str, code: str, retry_after: int | None = None) -> RequestError:
        seconds = self.retry_after() if retry_after is None else retry_after
        return RequestError(
            f"{cause}; try again in {seconds} s",
            status=429, kind="rate_limit_error", code=code, retry_after=seconds,
        )  # fmt: skip

    def _client(self, name: str) -> _Client:
        if name not in self._clients:
            if len(self._clients) >= _IDLE_CLIENTS:
                self._clients = {key: used for key, used in self._clients.items() if used.requests}
            self._clients[name] = _Client(tokens=self._limits.key_requests_per_minute, filled_at=self._clock())
        return self._clients[name]

    def _fill(self, client: _Client) -> None:
        now, rate = self._clock(), self._limits.key_requests_per_minute
        client.tokens = min(float(rate), client.tokens + (now - client.filled_at) * rate / 60)
        client.filled_at = now

    def _start(self, ticket: Ticket) -> None:
        with self._lock:
            if not ticket.left and not ticket.running:
                ticket.running = True
                self.waiting -= 1
                self.running += 1

    def _leave(self, ticket: Ticket) -> None:
        with self._lock:
            if ticket.left:
                return
            ticket.left = True
            if ticket.running:
                self.running -= 1
            else:
                self.waiting -= 1
            self.audio_seconds = max(0.0, self.audio_seconds - ticket.seconds)
            self._client(ticket.client).requests -= 1


def expected_seconds(text: str, speed: float = 1.0) -> float:
    """About how long `text` is when it is spoken; cheap, and good enough to admit by."""
    wide = sum(ord(letter) >= _WIDE_FROM for letter in text)
    return (wide * _SECONDS_PER_WIDE_LETTER + (len(text) - wide) * _SECONDS_PER_LETTER) / speed
