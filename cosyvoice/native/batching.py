"""Continuous batching: steps of requests that run at the same time are gathered into one run of the graph.

There is no scheduler thread. A thread that asks for a step while nothing runs becomes the leader: it gathers what
waits, runs it, hands out the results, and passes the lead on to a thread that came meanwhile. So a single caller
pays nothing for the machinery, requests join and leave at any step, and no lock is held during a run.

To wake a thread costs as much as a small model's run, and threads wake one after the other. A request whose next
step follows from the result of the last one therefore hands in that rule with its work: the leader applies it, goes
on with all such requests, and wakes a thread once several results lie ready for it. Such a request needs its thread
for nothing else, so it goes on, `AHEAD` results at most, while its thread makes use of what it took.

For requests that come with one step at a time the leader waits a moment, where they were served just now and are
likely to ask again at once: as long as one run takes, counted from when they were served. A request whose caller took
longer than that the last time, because it is busy elsewhere between its steps, is not waited for.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from cosyvoice.errors import CosyVoiceError, GenerationError


class Member(Protocol):
    """What is stepped: one request's sequence."""

    served_at: float
    """`time.monotonic()` when its last result was handed out; -inf before the first."""
    pause: float
    """Seconds between its last result and the step after it; inf where nobody is to wait for the step."""
    released: bool
    """Its request has ended; it will not be stepped again."""


SHORTEST_PATIENCE = 0.003
"""Seconds: threads take this long to wake up one after the other, however short a run is."""
BURST, BURST_SECONDS = 8, 0.01
"""A sleeping thread is woken for so many results, or when the first of them is so old."""
AHEAD = 16
"""Results of a request that lie ready at most."""

M = TypeVar("M", bound=Member)
Follow = Callable[[Any], tuple[Sequence[Any], Any]]
"""From the result of a run: what the caller gets of it, and the work of the next run, None where this was the last."""


class Ticket(Generic[M]):
    """Steps of one member, each of which follows from the one before; taken by one thread."""

    def __init__(self, member: M, work: Any, alone: bool, follow: Follow) -> None:
        self.member, self.work, self.alone, self.follow = member, work, alone, follow
        self.result: Any = None
        self.error: BaseException | None = None
        self.ready: list[Any] = []
        self.ready_since = math.inf
        self.due = False
        """Its thread is to return with what is ready, or with the error."""
        self.leads = False
        self._sleep: threading.Lock | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.work is None

    @property
    def sleeps(self) -> bool:
        """Whether its thread waits to be woken."""
        return self._sleep is not None

    def lie_down(self) -> threading.Lock:
        """What its thread is to acquire: it can when it is woken. From here on `wake` works."""
        self._sleep = threading.Lock()
        self._sleep.acquire()
        return self._sleep

    def wake(self) -> None:
        """Let its thread go on, where it sleeps."""
        if self._sleep is not None:
            self._sleep.release()
            self._sleep = None

    def collect(self) -> list[Any]:
        """What is ready; raises the error that came behind it once nothing is."""
        items, self.ready, self.ready_since, self.due = self.ready, [], math.inf, False
        if not items and self.error is not None:
            raise self.error
        return items


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
        # Reentrant: a release may come out of the garbage collection of whatever runs under it.
        self._following = threading.RLock()
        self._tickets: list[Ticket[M]] = []
        self._members: set[M] = set()
        self._awaited: set[M] = set()
        self._led = False
        self._alone_ran_last = False
        self._run_seconds = 0.0

    def add(self, member: M) -> None:
        """Let `member` take part."""
        with self._lock:
            self._members = {known for known in self._members if not known.released} | {member}

    def remove(self, member: M) -> None:
        """`member` has ended: no rule of it is applied any more, and a step that still waits fails with
        `GenerationError`. Waits for a rule that is being applied; what is left of its steps goes with the next run."""
        # Without the lock of the tickets, since this may interrupt a thread that has it; the leader sees the flag.
        with self._following:
            member.released = True

    def step(self, member: M, work: Any, alone: bool) -> Any:
        """The result of `run` for one step of `member`, gathered with others unless it must run `alone`.

        Blocks until it is there. Raises what `run` set as the error of this step.
        """
        member.pause = time.monotonic() - member.served_at
        return self.take(Ticket(member, work, alone, _only))[0]

    def begin(self, member: M, work: Any, follow: Follow) -> Ticket[M]:
        """Steps of `member` from `work` on, which go on by themselves from the first `take` on.

        `follow` is called after each of them, one at a time, by whichever thread leads, and no more once `member` was
        removed. What it raises ends these steps, and no others.
        """
        member.pause = math.inf
        return Ticket(member, work, False, follow)

    def take(self, ticket: Ticket[M]) -> list[Any]:
        """What came of `ticket` since the last call, in order; blocks until there is something. Nothing: it has ended.

        Raises the error of a step, or what its `follow` raised, once all that came before was taken.
        """
        with self._lock:
            if ticket.ready or ticket.ended:
                return ticket.collect()
            if ticket not in self._tickets:
                self._tickets.append(ticket)
            leads, self._led = not self._led, True
            # From here on a leader that ends may pass the lead to this ticket, and wakes it then.
            ticket.leads = leads
            asleep = None if leads else ticket.lie_down()
            self._awaited.discard(ticket.member)
            # Every thread that is woken delays the others, so the leader sleeps until all are here that it waits for.
            if ticket.alone or not self._awaited:
                self._arrived.notify_all()
        try:
            if asleep is not None:
                asleep.acquire()
            while not ticket.due:
                with self._lock:
                    batch = self._gather(ticket)
                if batch:
                    self._serve(batch, ticket)
        except BaseException:
            with self._lock:
                self._drop(ticket)
            raise
        finally:
            # Also when the thread is interrupted: the others must not wait for a leader who is gone.
            self._leave(ticket)
        with self._lock:
            return ticket.collect()

    def _leave(self, ticket: Ticket[M]) -> None:
        """Pass the lead on, where this thread has it."""
        with self._lock:
            ticket.wake()
            if ticket.leads:
                ticket.leads = False
                heir = next((other for other in self._tickets if other.sleeps), None)
                self._led = heir is not None
                if heir is not None:
                    heir.leads = True
                    heir.wake()

    def _drop(self, ticket: Ticket[M]) -> None:
        if ticket in self._tickets:
            self._tickets.remove(ticket)

    def _gather(self, leader: Ticket[M]) -> list[Ticket[M]]:
        """Choose the tickets of the next run; none where `leader` is to leave. The lock is held."""
        while True:
            self._dismiss_released()
            if leader.due:
                return []
            lone = [ticket for ticket in self._tickets if ticket.alone]
            together = [ticket for ticket in self._tickets if not ticket.alone and len(ticket.ready) < AHEAD]
            if lone and not (together and self._alone_ran_last):
                if self._hand_out_before_a_prompt(leader):
                    return []
                batch = lone[:1]
                break
            patience = self._patience()
            if patience <= 0:
                batch = together
                break
            self._arrived.wait(patience)
        self._alone_ran_last = batch[0].alone
        return batch

    def _dismiss_released(self) -> None:
        for ticket in [ticket for ticket in self._tickets if ticket.member.released]:
            self._drop(ticket)
            ticket.work, ticket.error, ticket.due = None, _error(ticket, None), True
            ticket.wake()

    def _hand_out_before_a_prompt(self, leader: Ticket[M]) -> bool:
        """Let nobody who has results wait for another's prompt; True where the leader is one of them."""
        for ticket in self._tickets:
            if ticket.ready and (ticket.sleeps or ticket is leader):
                ticket.due = True
                ticket.wake()
        return leader.due

    def _patience(self) -> float:
        """Seconds to wait for members that were served just now, `_awaited`; 0 where all of them are here."""
        patience = max(self._run_seconds, SHORTEST_PATIENCE)
        missing = self._members - {ticket.member for ticket in self._tickets}
        self._awaited = {member for member in missing if member.pause <= patience and not member.released}
        if not self._awaited:
            return 0.0
        return max(member.served_at for member in self._awaited) + patience - time.monotonic()

    def _serve(self, batch: list[Ticket[M]], leader: Ticket[M]) -> None:
        """Run `batch` and hand out what comes of it; raises only what interrupts this thread."""
        begin = time.monotonic()
        failure: BaseException | None = None
        outcomes: dict[Ticket[M], tuple[Sequence[Any], Any]] = {}
        for ticket in batch:
            ticket.result = None
        try:
            try:
                self._run(batch)
            except Exception as error:
                failure = error
            if not batch[0].alone:
                self._run_seconds = time.monotonic() - begin
            for ticket in batch:
                if ticket.result is not None:
                    outcomes[ticket] = self._followed(ticket)
        except BaseException as error:  # an interruption of this thread, perhaps in the middle of some rule
            failure = error
        with self._lock:
            self._hand_out(batch, outcomes, failure, time.monotonic())
            # As soon as nobody depends on its lead, the leader returns with whatever it has.
            leader.due |= bool(leader.ready) and not any(ticket.sleeps for ticket in self._tickets)
        if failure is not None and not isinstance(failure, Exception):
            raise failure

    def _followed(self, ticket: Ticket[M]) -> tuple[Sequence[Any], Any]:
        """What comes of the result of `ticket`; what its rule raises is its own failure."""
        with self._following:
            if not ticket.member.released:
                try:
                    return ticket.follow(ticket.result)
                except Exception as error:
                    ticket.error = error
        return (), None

    def _hand_out(
        self,
        batch: Sequence[Ticket[M]],
        outcomes: Mapping[Ticket[M], tuple[Sequence[Any], Any]],
        failure: BaseException | None,
        now: float,
    ) -> None:
        """Note what came of a run, and wake who has enough; the lock is held."""
        for ticket in batch:
            items, ticket.work = outcomes.get(ticket, ((), None))
            if items and not ticket.ready:
                ticket.ready_since = now
            ticket.ready += items
            ticket.member.served_at = now
            if ticket.ended:
                if ticket not in outcomes and ticket.error is None:
                    ticket.error = _error(ticket, failure)
                elif ticket.member.released:
                    ticket.error = _error(ticket, None)
                self._drop(ticket)
            ticket.due |= ticket.ended or len(ticket.ready) >= BURST or now - ticket.ready_since >= BURST_SECONDS
            if ticket.due:
                ticket.wake()


def _only(result: Any) -> tuple[Sequence[Any], Any]:
    """The rule of a single step."""
    return (result,), None


def _error(ticket: Ticket[Any], failure: BaseException | None) -> CosyVoiceError:
    if ticket.member.released:
        return GenerationError("the state of this request was released; begin a new one")
    if isinstance(failure, CosyVoiceError):
        return type(failure)(*failure.args)
    return GenerationError(f"the language model was interrupted ({failure!r}); try again")
