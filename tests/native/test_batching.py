"""Gathering of steps into runs, with a run that only counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from cosyvoice.errors import GenerationError
from cosyvoice.native.batching import Batcher, Ticket

SECONDS = 0.02
"""Length of a run: much longer than the machinery takes."""


@dataclass(eq=False)
class Request:
    name: int = 0
    served_at: float = float("-inf")
    pause: float = float("inf")
    released: bool = False


class Counter:
    """Doubles the work of each ticket, and remembers who ran together."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.runs: list[list[int]] = []
        self.seconds = seconds
        self.running = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, tickets: Sequence[Ticket[Request]]) -> None:
        self.running += 1
        assert self.running == 1, "two runs at once"
        assert len(tickets) == 1 or not any(ticket.alone for ticket in tickets)
        time.sleep(self.seconds)
        assert self.gate.wait(10)
        self.runs.append(sorted(ticket.member.name for ticket in tickets))
        for ticket in tickets:
            if ticket.work == "broken":
                ticket.error = GenerationError("this one is broken; try another")
            elif ticket.work == "crash":
                self.running -= 1
                raise ValueError("the run crashed")
            else:
                ticket.result = 2 * ticket.work
        self.running -= 1


def wait_until(condition: Callable[[], bool]) -> None:
    """Raises `AssertionError` where `condition` does not come true within ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def hold(counter: Counter, batcher: Batcher[Request], waiting: int) -> None:
    """Let the run that is going on end once `waiting` steps wait behind it."""
    wait_until(lambda: sum(ticket.sleeps for ticket in batcher._tickets) >= waiting)
    counter.gate.set()


def begin(counter: Counter) -> None:
    """Wait for the first run to begin."""
    wait_until(lambda: counter.running > 0)


def make(count: int, counter: Counter) -> tuple[Batcher[Request], list[Request]]:
    batcher: Batcher[Request] = Batcher(counter)
    requests = [Request(i) for i in range(count)]
    for request in requests:
        batcher.add(request)
    return batcher, requests


def test_one_caller_never_waits_for_others() -> None:
    counter = Counter(0.0)
    batcher, (request,) = make(1, counter)
    started = time.monotonic()
    assert [batcher.step(request, i, alone=False) for i in range(200)] == [2 * i for i in range(200)]
    assert time.monotonic() - started < 2
    assert counter.runs == [[0]] * 200


def test_requests_of_many_threads_run_together() -> None:
    counter = Counter()
    batcher, requests = make(8, counter)

    def decode(request: Request) -> list[int]:
        return [batcher.step(request, 100 * request.name + i, alone=False) for i in range(20)]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(decode, requests))
    assert results == [[2 * (100 * name + i) for i in range(20)] for name in range(8)]
    # The first run may have one request alone; a slow machine may miss a few more.
    assert len(counter.runs) < 40


def test_a_request_that_stays_away_delays_the_others_once() -> None:
    counter = Counter()
    batcher, (first, second) = make(2, counter)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda request: batcher.step(request, 1, alone=False), [first, second]))
    started = time.monotonic()
    for _ in range(10):
        batcher.step(first, 1, alone=False)
    # Waiting a run's length before each step would double the time.
    assert time.monotonic() - started < 18 * SECONDS


def test_prompts_run_alone_and_let_steps_pass() -> None:
    counter = Counter()
    counter.gate.clear()
    batcher, requests = make(7, counter)
    with ThreadPoolExecutor(7) as pool:
        blocker = pool.submit(batcher.step, requests[0], 1, alone=True)
        begin(counter)
        prompts = [pool.submit(batcher.step, request, 1, alone=True) for request in requests[1:4]]
        steps = [pool.submit(batcher.step, request, 1, alone=False) for request in requests[4:]]
        hold(counter, batcher, 6)
        assert [future.result() for future in [blocker, *prompts, *steps]] == [2] * 7
    assert counter.runs[0] == [0]
    assert counter.runs[1] == [4, 5, 6]
    assert sorted(counter.runs[2:]) == [[1], [2], [3]]


def test_an_error_belongs_to_its_request() -> None:
    counter = Counter()
    batcher, requests = make(3, counter)

    def step(request: Request) -> object:
        try:
            return batcher.step(request, "broken" if request.name == 1 else 5, alone=False)
        except GenerationError as error:
            return str(error)

    counter.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        blocker = pool.submit(batcher.step, Request(9), 0, alone=True)
        begin(counter)
        steps = [pool.submit(step, request) for request in requests]
        hold(counter, batcher, 3)
        assert [future.result() for future in steps] == [10, "this one is broken; try another", 10]
        blocker.result()
    assert counter.runs == [[9], [0, 1, 2]]


def test_after_a_crash_others_go_on() -> None:
    batcher, (first, second) = make(2, Counter())
    with pytest.raises(GenerationError, match="the run crashed"):
        batcher.step(first, "crash", alone=False)
    assert batcher.step(second, 3, alone=False) == 6


def test_an_interrupted_leader_passes_the_lead_on() -> None:
    class Interrupted(Counter):
        def __call__(self, tickets: Sequence[Ticket[Request]]) -> None:
            super().__call__(tickets)
            if tickets[0].member.name == 0:
                raise KeyboardInterrupt

    counter = Interrupted()
    counter.gate.clear()
    batcher, (first, second) = make(2, counter)
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(batcher.step, first, 1, alone=True)
        begin(counter)
        follower = pool.submit(batcher.step, second, 4, alone=False)
        hold(counter, batcher, 1)
        assert follower.result(timeout=5) == 8
        with pytest.raises(KeyboardInterrupt):
            leader.result()


def test_a_released_request_that_waits_gets_an_error() -> None:
    counter = Counter()
    counter.gate.clear()
    batcher, (first, second) = make(2, counter)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(batcher.step, first, 1, alone=True)
        begin(counter)
        waiting = pool.submit(batcher.step, second, 1, alone=False)
        wait_until(lambda: any(ticket.sleeps for ticket in batcher._tickets))
        batcher.remove(second)
        counter.gate.set()
        with pytest.raises(GenerationError, match="released"):
            waiting.result(timeout=5)
        assert running.result() == 2
    assert counter.runs == [[0]]


def test_many_threads_that_come_and_go() -> None:
    """Every step is answered once, whatever the order of arrival."""
    counter = Counter(0.0)
    batcher, _ = make(0, counter)
    answered = []

    def live(name: int) -> None:
        request = Request(name)
        batcher.add(request)
        for i in range(50):
            answered.append(batcher.step(request, i, alone=i == 0))
        batcher.remove(request)

    threads = [threading.Thread(target=live, args=(name,)) for name in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(answered) == sorted(2 * i for i in range(50) for _ in range(16))


def test_a_step_that_is_given_the_lead_before_it_sleeps() -> None:
    """The leader ends between a step's joining the line and its falling asleep."""
    counter = Counter(seconds=0.0)
    batcher: Batcher[Request] = Batcher(counter)
    counter.gate.clear()
    first = threading.Thread(target=batcher.step, args=(Request(1), 1, False))
    first.start()
    begin(counter)

    class Lock:
        """The batcher's lock; whoever gives it back first sees the leader leave before it goes on."""

        real, leaving = batcher._lock, True

        def __enter__(self) -> None:
            self.real.acquire()

        def __exit__(self, *_: object) -> None:
            self.real.release()
            if self.leaving and threading.current_thread() is threading.main_thread():
                self.leaving = False
                counter.gate.set()
                first.join(10)

    batcher._lock = Lock()  # type: ignore[assignment]
    assert batcher.step(Request(2), 21, False) == 42
    assert batcher.step(Request(3), 4, False) == 8
