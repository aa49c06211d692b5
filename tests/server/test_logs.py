from __future__ import annotations

import json
import logging

from cosyvoice.server.logs import JSONFormatter, PlainFormatter


def record(**extra: object) -> logging.LogRecord:
    made = logging.LogRecord("cosyvoice.server", logging.INFO, __file__, 1, "speech of %s", ("x",), None)
    vars(made).update(extra)
    return made


def test_a_line_is_one_object_with_the_fields_of_the_code() -> None:
    text = JSONFormatter().format(record(request_id="r1", seconds=0.5))
    line = json.loads(text)
    assert "\n" not in text
    assert line["time"].endswith("Z")
    del line["time"]
    assert line == {
        "level": "info", "logger": "cosyvoice.server", "message": "speech of x", "request_id": "r1", "seconds": 0.5,
    }  # fmt: skip


def test_failures_carry_their_traceback_within_the_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        made = record()
        made.exc_info = (ValueError, error, error.__traceback__)
    text = JSONFormatter().format(made)
    assert "ValueError: broken" in json.loads(text)["exception"] and "\n" not in text


def test_for_eyes_the_fields_follow_the_message() -> None:
    assert PlainFormatter().format(record(request_id="r1")).endswith("speech of x request_id=r1")
