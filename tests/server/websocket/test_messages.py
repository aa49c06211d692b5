from __future__ import annotations

import pytest

from cosyvoice.server.errors import RequestError, problem_of
from cosyvoice.server.websocket.messages import InputText, SessionConfig, error_message, parse


def test_fields_that_other_servers_know_are_passed_over() -> None:
    message = parse('{"type": "session.config", "voice": {"id": "anna"}, "stream_audio": true, "split_granularity": 1}')
    assert isinstance(message, SessionConfig)
    text = parse('{"type": "input.text", "text": "", "event_id": "x"}')
    assert isinstance(text, InputText) and text.generation_id is None


@pytest.mark.parametrize(
    ("frame", "param"),
    [
        ('{"type": "input.text", "text": null}', "text"),
        ('{"type": "session.config", "speed": "fast"}', "speed"),
        ('{"type": "session.config", "volume_multiplier": 1e400}', "volume_multiplier"),
        ('{"type": 1}', "type"),
        ("null", None),
    ],
)
def test_the_error_names_the_field(frame: str, param: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        parse(frame)
    assert caught.value.param == param


def test_errors_have_both_shapes() -> None:
    message = error_message(problem_of(RequestError("no", code="never")), "gen-1")
    assert message["message"] == message["error"]["message"] == "no"
    assert (message["type"], message["error"]["code"], message["generation_id"]) == ("error", "never", "gen-1")
