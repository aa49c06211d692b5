"""Who is let in: limits on what runs, waits and is expected, for all clients and for each.

A request that does not fit is refused at once with the time after which it is worth to come again, rather than kept
in a line that nobody waits for. Refusal is by count and by seconds of speech, since a hundred words cost as much as
fifty requests for two. A request that waits for its client, for words or for a reader, lets another one run meanwhile.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from cosyvoice.server.errors import RequestError
from cosyvoice.server.settings import Limits

_SECONDS_PER_LETTER = 0.065
_SECONDS_PER_WIDE_LETTER = 0.22
_WIDE_FROM = 0x2E80
"""First code point of the scripts that write a syllable as a letter."""
_LONGEST_RETRY = 60
_LOOK_SECONDS = 1.0
"""Longest time until a request in the line finds that its time is over."""
_IDLE_CLIENTS = 1024
"""Clients without a running request whose rate is remembered."""


@dataclass
class _Client:
    """What one client uses, and a bucket of requests that fills with time."""

    requests: int = 0
    tokens: float = 0.0
    filled_at: float = 0.0


State = Literal["waiting", "running", "paused", "left"]


def _no_check() -> None:
    """Nothing ends the wait of this ticket."""


@dataclass(eq=False)
class Ticket:
    """A place among the requests that run or wait. `leave` it in the end, whatever happened."""

    client: str
    seconds: float
    """Expected speech."""
    _admission: Admission = field(repr=False)
    state: State = "waiting"
    check: Callable[[], None] = field(default=_no_check, repr=False)
    """Raises where the request is not to go on."""
    pauses: int = 0
    """Threads of the request that wait."""

    def start(self, check: Callable[[], None] = _no_check) -> None:
        """The request begins to speak, as soon as it is its turn. Raises what `check` raises meanwhile."""
        self.check = check
        self._admission._start(self)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A time in which a thread of the request waits for its client, while others may run in its place.

        Ends as soon as there is a place again; raises what `check` raises meanwhile.
        """
        self._admission._pause(self)
        yield
        self._admission._resume(self)

    def wake(self) -> None:
        """Let a wait for a place look at `check` at once."""
        self._admission._wake()

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
        self._turns = threading.Condition(self._lock)
        self._line: deque[Ticket] = deque()
        """Who waits for a place, those who go on before those who begin."""
        self._clients: dict[str, _Client] = {}
        self._closed = False
        self._pace = 1.0
        self.running = 0
        self.waiting = 0
        self.paused = 0
        """Requests that have begun and wait for their text or their reader."""
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
            if ticket.state == "waiting":
                self._line.append(ticket)
                self._take_place(ticket)
                self.waiting -= 1
                self._run(ticket)

    def _pause(self, ticket: Ticket) -> None:
        with self._lock:
            ticket.pauses += 1
            if ticket.state == "running":
                ticket.state = "paused"
                self.running -= 1
                self.paused += 1
                self._turns.notify_all()

    def _resume(self, ticket: Ticket) -> None:
        with self._lock:
            ticket.pauses -= 1
            if ticket.state == "paused" and not ticket.pauses:
                self._line.appendleft(ticket)
                self._take_place(ticket)
                self.paused -= 1
                self._run(ticket)

    def _take_place(self, ticket: Ticket) -> None:
        """Wait in the line until it is the turn of `ticket`; the lock is held, and given up meanwhile."""
        try:
            while next(filter(self._may_run, self._line), None) is not ticket:
                ticket.check()
                self._turns.wait(_LOOK_SECONDS)
            ticket.check()
        finally:
            self._line.remove(ticket)
            self._turns.notify_all()

    def _may_run(self, ticket: Ticket) -> bool:
        limits = self._limits
        if self.running >= limits.running:
            return False
        # Whoever has begun holds memory, also while it waits.
        return ticket.state == "paused" or self.running + self.paused < limits.running + limits.paused

    def _run(self, ticket: Ticket) -> None:
        ticket.state = "running"
        self.running += 1

    def _wake(self) -> None:
        with self._lock:
            self._turns.notify_all()

    def _leave(self, ticket: Ticket) -> None:
        with self._lock:
            if ticket.state == "left":
                return
            if ticket.state == "running":
                self.running -= 1
            elif ticket.state == "paused":
                self.paused -= 1
            else:
                self.waiting -= 1
            ticket.state = "left"
            self.audio_seconds = max(0.0, self.audio_seconds - ticket.seconds)
            self._client(ticket.client).requests -= 1
            self._turns.notify_all()


def expected_seconds(text: str, speed: float = 1.0) -> float:
    """About how long `text` is when it is spoken; cheap, and good enough to admit by."""
    wide = sum(ord(letter) >= _WIDE_FROM for letter in text)
    return (wide * _SECONDS_PER_WIDE_LETTER + (len(text) - wide) * _SECONDS_PER_LETTER) / speed
