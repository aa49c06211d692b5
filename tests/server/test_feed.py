from __future__ import annotations

import threading

import pytest

from cosyvoice.server.errors import Cancelled, RequestError
from cosyvoice.server.feed import TextFeed


def test_text_is_read_as_it_is_written() -> None:
    feed = TextFeed(100, 5.0)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.extend(feed))
    reader.start()
    for part in ("Hello ", "", "world."):
        feed.push(part)
    feed.finish()
    reader.join(5)
    assert read == ["Hello ", "world."] and len(feed) == 12


def test_it_is_bounded_and_ends() -> None:
    feed = TextFeed(5, 5.0)
    feed.push("12345")
    with pytest.raises(RequestError, match="more than 5 characters"):
        feed.push("6")
    feed.finish()
    with pytest.raises(RequestError, match="has ended"):
        feed.push("")
    assert list(feed) == ["12345"]


def test_a_writer_that_falls_silent_is_given_up() -> None:
    with pytest.raises(RequestError) as caught:
        next(TextFeed(5, 0.02))
    assert (caught.value.status, caught.value.code) == (408, "idle_timeout")


def test_closing_wakes_the_reader() -> None:
    feed = TextFeed(5, 30.0)
    threading.Timer(0.02, feed.close).start()
    with pytest.raises(Cancelled):
        next(feed)
