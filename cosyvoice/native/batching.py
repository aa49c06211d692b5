"""Continuous batching: steps of requests that run at the same time are gathered into one run of the graph.

There is no scheduler thread. A thread that asks for a step while nothing runs becomes the leader: it gathers what
waits, runs it, hands out the results, and passes the lead on to a thread that came meanwhile. So a single caller
pays nothing for the machinery, requests join and leave at any step, and no lock is held during a run.

The leader waits a moment for requests that were served just now and are likely to ask again at once: as long as one
run takes, counted from when they were served. A request whose caller took longer than that the last time, because it
is busy elsewhere between its steps, is not waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from cosyvoice.errors import CosyVoiceError, GenerationError


class Member(Protocol):
    """What is stepped: one request's sequence."""

    served_at: float
    """`time.monotonic()` when its last result was handed out; -inf before the first."""
    pause: float
    """Seconds between its last result and the step after it."""
    released: bool
    """Its request has ended; it will not be stepped again."""


SHORTEST_PATIENCE = 0.003
"""Seconds: threads take this long to wake up one after the other, however short a run is."""

M = TypeVar("M", bound=Member)


class Ticket(Generic[M]):
    """One step that a thread waits for."""

    def __init__(self, member: M, work: Any, alone: bool) -> None:
        self.member, self.work, self.alone = member, work, alone
        self.result: Any = None
        self.error: CosyVoiceError | None = None
        self.done = False
        self.leads = False
        self._wake = threading.Lock()
        self._wake.acquire()

    def wait(self) -> None:
        """Sleep until the step is done or this thread is to lead."""
        self._wake.acquire()

    def wake(self) -> None:
        self._wake.release()


class Batcher(Generic[M]):
    """Gathers steps of members into runs.

    Args:
        run: is given tickets that wait, all of which can go into one run, or a single one that is `alone`; it sets
            `result` or `error` of each. It is never called by two threads at once. What it raises becomes the
            error of every ticket that it left without one.
    """

    def __init__(self, run: Callable[[Sequence[Ticket[M]]], None]) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._waiting: list[Ticket[M]] = []
        self._members: set[M] = set()
        self._awaited: set[M] = set()
        self._led = False
        self._alone_ran_last = False
        self._run_seconds = 0.0

    def add(self, member: M) -> None:
        """Let `member` take part."""
        with self._lock:
            self._members.add(member)

    def remove(self, member: M) -> None:
        """`member` has ended; a step of it that still waits fails with `GenerationError`."""
        with self._lock:
            member.released = True
            self._members.discard(member)
            self._arrived.notify_all()

    def step(self, member: M, work: Any, alone: bool) -> Any:
        """The result of `run` for one step of `member`, gathered with others unless it must run `alone`.

        Blocks until it is there. Raises what `run` set as the error of this step.
        """
        ticket = Ticket(member, work, alone)
        member.pause = time.monotonic() - member.served_at
        with self._lock:
            self._waiting.append(ticket)
            # Kept, since from here on a leader that ends may pass the lead to this ticket, and wakes it then.
            leads = not self._led
            ticket.leads, self._led = leads, True
            self._awaited.discard(member)
            # Every thread that is woken delays the others, so the leader sleeps until all are here that it waits for.
            if alone or not self._awaited:
                self._arrived.notify_all()
        try:
            if not leads:
                ticket.wait()
            while not ticket.done:
                with self._lock:
                    batch = self._gather()
                self._serve(batch)
        finally:
            # Also when the thread is interrupted: the others must not wait for a leader who is gone.
            self._leave(ticket)
        if ticket.error is not None:
            raise ticket.error
        return ticket.result

    def _leave(self, ticket: Ticket[M]) -> None:
        """Pass the lead on, where this thread has it."""
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            if ticket.leads:
                self._led = bool(self._waiting)
                if self._led:
                    self._waiting[0].leads = True
                    self._waiting[0].wake()

    def _gather(self) -> list[Ticket[M]]:
        """Take the tickets of the next run out of those that wait; the lock is held."""
        while True:
            lone = [ticket for ticket in self._waiting if ticket.alone]
            together = [ticket for ticket in self._waiting if not ticket.alone]
            if lone and not (together and self._alone_ran_last):
                batch = lone[:1]
                break
            patience = self._patience(together)
            if patience <= 0:
                batch = together
                break
            self._arrived.wait(patience)
        self._alone_ran_last = batch[0].alone
        self._waiting = [ticket for ticket in self._waiting if ticket not in batch]
        return batch

    def _patience(self, together: Sequence[Ticket[M]]) -> float:
        """Seconds to wait for members that were served just now, `_awaited`; 0 where all of them are here."""
        patience = max(self._run_seconds, SHORTEST_PATIENCE)
        missing = self._members - {ticket.member for ticket in together}
        self._awaited = {member for member in missing if member.pause <= patience}
        if not self._awaited:
            return 0.0
        return max(member.served_at for member in self._awaited) + patience - time.monotonic()

    def _serve(self, batch: list[Ticket[M]]) -> None:
        begin = time.monotonic()
        live = [ticket for ticket in batch if not ticket.member.released]
        failure: BaseException | None = None
        try:
            if live:
                self._run(live)
        except BaseException as error:
            failure = error
        end = time.monotonic()
        if not batch[0].alone:
            self._run_seconds = end - begin
        self._hand_out(batch, failure, end)
        if failure is not None and not isinstance(failure, Exception):
            raise failure

    def _hand_out(self, batch: list[Ticket[M]], failure: BaseException | None, now: float) -> None:
        for ticket in batch:
            if ticket.result is None and ticket.error is None:
                ticket.error = _error(ticket, failure)
            ticket.member.served_at = now
            ticket.done = True
            ticket.wake()


def _error(ticket: Ticket[Any], failure: BaseException | None) -> CosyVoiceError:
    if ticket.member.released:
        return GenerationError("the state of this request was released; begin a new one")
    if isinstance(failure, CosyVoiceError):
        return type(failure)(*failure.args)
    return GenerationError(f"the language model was interrupted ({failure!r}); try again")
