"""Steps that follow from each other: many requests under one leader, which come, go, fail and are taken back."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cosyvoice.errors import GenerationError
from cosyvoice.native.batching import AHEAD, BURST, Batcher, Ticket
from tests.native.test_batching import Request, wait_until

END = -1


class Adder:
    """Adds one to the work of each ticket; counts the runs, and who was in them."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.runs: list[list[int]] = []
        self.seconds, self.running = seconds, 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, tickets: Sequence[Ticket[Request]]) -> None:
        self.running += 1
        assert self.running == 1, "two runs at once"
        time.sleep(self.seconds)
        assert self.gate.wait(10)
        self.runs.append(sorted(ticket.member.name for ticket in tickets))
        for ticket in tickets:
            ticket.result = ticket.work + 1
        self.running -= 1


def up_to(last: int, then: Callable[[int], Any] = lambda value: None) -> Callable[[int], tuple[Sequence[int], Any]]:
    """The rule that counts up to `last`; `then` is told each number."""

    def follow(value: int) -> tuple[Sequence[int], Any]:
        then(value)
        return (value,), None if value == last else value

    return follow


def take_all(batcher: Batcher[Request], steps: Ticket[Request]) -> Iterator[int]:
    while items := batcher.take(steps):
        yield from items


def join(batcher: Batcher[Request], name: int) -> Request:
    request = Request(name)
    batcher.add(request)
    return request


def test_one_request_gets_each_result_at_once() -> None:
    adder = Adder()
    batcher: Batcher[Request] = Batcher(adder)
    steps = batcher.begin(join(batcher, 0), 0, up_to(100))
    for expected in range(1, 101):
        assert batcher.take(steps) == [expected]
        assert len(adder.runs) == expected
    assert batcher.take(steps) == batcher.take(steps) == []


def test_many_go_on_together_under_one_leader() -> None:
    """Threads are woken for bursts of results, and every request is in nearly every run."""
    adder = Adder(0.001)
    batcher: Batcher[Request] = Batcher(adder)
    start = threading.Barrier(8)

    def speak(name: int) -> tuple[list[int], int]:
        steps, found, calls = batcher.begin(join(batcher, name), 100 * name, up_to(100 * name + 64)), [], 0
        start.wait()
        while items := batcher.take(steps):
            found += items
            calls += 1
        return found, calls

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(speak, range(8)))
    assert [found for found, _ in results] == [list(range(100 * n + 1, 100 * n + 65)) for n in range(8)]
    assert len(adder.runs) < 2 * 64
    assert sum(calls for _, calls in results) < 8 * 64 / 2


def test_a_burst_is_bounded() -> None:
    """A request whose thread stays away goes on for so long and no longer; the others need not wait for it."""
    adder = Adder()
    batcher: Batcher[Request] = Batcher(adder)
    away, busy = (batcher.begin(join(batcher, name), 0, up_to(1000)) for name in range(2))
    batcher.take(away)
    for _ in range(3 * AHEAD):
        batcher.take(busy)
    assert [0] not in adder.runs[1:]
    assert sum(run == [0, 1] for run in adder.runs) == AHEAD == len(away.ready)
    assert batcher.take(away) == list(range(2, AHEAD + 2))


def test_a_sleeper_is_woken_for_a_burst_or_in_time() -> None:
    for seconds, most in ((0.0, BURST), (0.006, 3)):
        adder = Adder(seconds)
        batcher: Batcher[Request] = Batcher(adder)
        sizes: list[int] = []

        def sleep(steps: Ticket[Request], sizes: list[int] = sizes, batcher: Batcher[Request] = batcher) -> None:
            while items := batcher.take(steps):
                sizes.append(len(items))

        both = [batcher.begin(join(batcher, name), 0, up_to(24)) for name in range(2)]
        threads = [threading.Thread(target=sleep, args=(steps,)) for steps in both]
        adder.gate.clear()
        for thread in threads:
            thread.start()
        wait_until(lambda steps=both: any(one.sleeps for one in steps))  # type: ignore[misc]
        adder.gate.set()
        for thread in threads:
            thread.join(10)
        assert sum(sizes) == 48
        if seconds:
            # A thread that was busy elsewhere may find more, but none slept through more than `most` runs.
            assert sorted(sizes)[len(sizes) // 2] <= most


def test_nobody_with_results_waits_for_a_prompt_of_another() -> None:
    adder = Adder()
    batcher: Batcher[Request] = Batcher(adder)
    steps = [batcher.begin(join(batcher, name), 0, up_to(1000)) for name in range(2)]
    adder.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(batcher.take, steps[0])
        wait_until(lambda: bool(adder.running))
        second = pool.submit(batcher.take, steps[1])
        wait_until(lambda: steps[1].sleeps)
        prompt = pool.submit(batcher.step, join(batcher, 2), 5, alone=True)
        wait_until(lambda: len(batcher._tickets) == 3)
        adder.gate.set()
        assert first.result(10) == [1]
        assert prompt.result(10) == 6
        assert second.result(10)[0] == 1


def test_a_failing_rule_fails_its_request_only() -> None:
    def fail_at(value: int) -> None:
        if value == 13:
            raise ZeroDivisionError("unlucky")

    batcher: Batcher[Request] = Batcher(Adder(0.0005))

    def speak(name: int) -> list[int] | tuple[list[int], str]:
        steps, found = (
            batcher.begin(join(batcher, name), 0, up_to(30, fail_at if name == 3 else lambda value: None)),
            [],
        )
        try:
            for value in take_all(batcher, steps):
                found.append(value)
        except ZeroDivisionError as error:
            with pytest.raises(ZeroDivisionError):
                batcher.take(steps)
            return found, str(error)
        return found

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(speak, range(6)))
    assert results[3] == (list(range(1, 13)), "unlucky")
    assert [result for name, result in enumerate(results) if name != 3] == [list(range(1, 31))] * 5


def test_an_interrupted_rule_of_another_passes_the_lead_on() -> None:
    """A leader is interrupted while it applies the rule of another request: that one fails, a third goes on."""

    def interrupt(value: int) -> None:
        if value == 2:
            raise KeyboardInterrupt

    adder = Adder()
    batcher: Batcher[Request] = Batcher(adder)
    adder.gate.clear()
    leading = batcher.begin(join(batcher, 0), 0, up_to(1000))
    broken = batcher.begin(join(batcher, 1), 0, up_to(1000, interrupt))
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(lambda: list(take_all(batcher, leading)))
        wait_until(lambda: bool(adder.running))
        follower = pool.submit(lambda: list(take_all(batcher, broken)))
        wait_until(lambda: broken.sleeps)
        adder.gate.set()
        failures = [future.exception(10) for future in (leader, follower)]
    # Whoever led was interrupted; the other either lost its result, and is told so, or led on to its end.
    assert any(isinstance(failure, KeyboardInterrupt) for failure in failures)
    told = [failure for failure in failures if not isinstance(failure, KeyboardInterrupt)]
    assert all(failure is None or "was interrupted" in str(failure) for failure in told)
    assert batcher.step(join(batcher, 2), 4, alone=False) == 5


def test_nobody_waits_for_a_prompt_that_is_there() -> None:
    """The prompt of one request is read in pieces, one after the other, beside steps that follow from each other."""
    batcher: Batcher[Request] = Batcher(Adder(0.003))
    wait, idle = batcher._arrived.wait, []

    def watched(seconds: float | None = None) -> bool:
        idle.append(any(ticket.alone for ticket in batcher._tickets))
        return wait(seconds)

    batcher._arrived.wait = watched  # type: ignore[method-assign]
    reading, steps = join(batcher, 0), batcher.begin(join(batcher, 1), 0, up_to(40))
    with ThreadPoolExecutor(1) as pool:
        speaking = pool.submit(lambda: list(take_all(batcher, steps)))
        assert [batcher.step(reading, piece, alone=True) for piece in range(6)] == [1, 2, 3, 4, 5, 6]
        assert speaking.result(10) == list(range(1, 41))
    assert not any(idle)


def test_no_rule_is_applied_after_the_release() -> None:
    """Requests are released by a thread of their own at any moment, under a leader who goes on."""
    batcher: Batcher[Request] = Batcher(Adder())
    late: list[int] = []

    def watched(request: Request) -> Callable[[int], None]:
        return lambda value: late.append(value) if ended[request.name] else None

    ended = [False] * 30
    stop = threading.Event()
    leader = batcher.begin(join(batcher, 99), 0, up_to(-1))

    def lead() -> None:
        while not stop.is_set():
            batcher.take(leader)

    def doomed(request: Request) -> str:
        with pytest.raises(GenerationError, match="released") as caught:
            for _ in take_all(batcher, batcher.begin(request, 0, up_to(-1, watched(request)))):
                pass
        return str(caught.value)

    with ThreadPoolExecutor(7) as pool:
        leading = pool.submit(lead)
        for begin in range(0, 30, 5):
            requests = [join(batcher, name) for name in range(begin, begin + 5)]
            running = [pool.submit(doomed, request) for request in requests]
            time.sleep(0.003)
            for request in requests:
                batcher.remove(request)
                ended[request.name] = True
            assert all(future.result(10) for future in running)
        stop.set()
        leading.result(10)
    assert late == []


def test_a_release_out_of_the_collection_of_garbage() -> None:
    """It may strike a thread that holds any lock of the batcher, and must not wait for that."""
    batcher: Batcher[Request] = Batcher(Adder())
    request, other = join(batcher, 0), join(batcher, 1)
    with batcher._lock, batcher._following:
        batcher.remove(request)
    assert list(take_all(batcher, batcher.begin(other, 0, up_to(2, lambda value: batcher.remove(request))))) == [1, 2]
    with pytest.raises(GenerationError, match="released"):
        batcher.take(batcher.begin(request, 0, up_to(2)))


def test_stress() -> None:
    """Single steps, prompts and following steps, releases and pauses, in an order that no run repeats."""
    batcher: Batcher[Request] = Batcher(Adder())
    random_source = random.Random(7)

    def live(seed: int) -> int:
        choose, spoken = random.Random(seed), 0
        for turn in range(12):
            request = join(batcher, seed)
            assert batcher.step(request, 1, alone=True) == 2
            if choose.random() < 0.3:
                assert batcher.step(request, turn, alone=False) == turn + 1
            last = choose.randrange(1, 60)
            taken = 0
            for value in take_all(batcher, batcher.begin(request, 0, up_to(last))):
                taken += 1
                assert value == taken
                if choose.random() < 0.02:
                    time.sleep(0.001)
                if choose.random() < 0.01:
                    break
            else:
                assert taken == last
            batcher.remove(request)
            spoken += taken
        return spoken

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(12) as pool:
            seeds = [random_source.randrange(1 << 30) for _ in range(12)]
            running = [pool.submit(live, seed) for seed in seeds]
            assert all(future.result(30) > 0 for future in running)
    finally:
        sys.setswitchinterval(interval)
    assert not batcher._led and all(request.released for request in batcher._members)
