import threading
from collections.abc import Iterator

import pytest

from cosyvoice.engine.overlap import RunAhead


def test_items_come_in_order_and_end() -> None:
    ahead = RunAhead(i for i in range(100))
    assert list(ahead) == list(range(100))
    assert list(ahead) == []
    ahead.close()


def test_it_runs_ahead_in_another_thread() -> None:
    done = threading.Event()
    threads = set()

    def source() -> Iterator[int]:
        for i in range(3):
            threads.add(threading.get_ident())
            yield i
        done.set()

    ahead = RunAhead(source())
    assert done.wait(5)
    assert threading.get_ident() not in threads
    assert next(ahead) == 0
    ahead.close()


def test_errors_are_raised_behind_the_items_before_them() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    ahead = RunAhead(source())
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            next(ahead)


def test_closing_stops_the_source_and_waits_for_it() -> None:
    released = []

    def endless() -> Iterator[int]:
        try:
            i = 0
            while True:
                yield i
                i += 1
        finally:
            released.append(True)

    ahead = RunAhead(endless())
    assert next(ahead) == 0
    ahead.close()
    assert released == [True]
