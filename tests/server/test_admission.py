from __future__ import annotations

import pytest

from cosyvoice.server.admission import Admission, expected_seconds
from cosyvoice.server.errors import RequestError
from cosyvoice.server.settings import Limits


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def refusal(admission: Admission, client: str = "a", seconds: float = 1.0) -> RequestError:
    with pytest.raises(RequestError) as caught:
        admission.admit(client, seconds)
    return caught.value


def test_more_than_run_and_wait_are_refused_with_a_time_to_come_again() -> None:
    admission = Admission(Limits(running=2, queue=1))
    tickets = [admission.admit(str(i), 1.0) for i in range(3)]
    error = refusal(admission)
    assert (error.status, error.code, error.kind) == (429, "queue_full", "rate_limit_error")
    assert error.retry_after is not None and 1 <= error.retry_after <= 60
    tickets[0].leave()
    admission.admit("b", 1.0)


def test_speech_is_counted_in_seconds() -> None:
    admission = Admission(Limits(audio_seconds=10))
    first = admission.admit("a", 6.0)
    assert refusal(admission, seconds=5.0).code == "server_busy"
    first.leave()
    admission.admit("a", 5.0)
    error = refusal(admission, seconds=11.0)
    assert (error.status, error.code) == (413, "text_too_long")


def test_a_ticket_is_given_back_once_in_whatever_state() -> None:
    admission = Admission(Limits())
    started, waiting = admission.admit("a", 2.0), admission.admit("a", 3.0)
    started.start()
    started.start()
    assert (admission.running, admission.waiting, admission.audio_seconds) == (1, 1, 5.0)
    for ticket in (started, waiting, started, waiting):
        ticket.leave()
    waiting.start()
    assert (admission.running, admission.waiting, admission.audio_seconds) == (0, 0, 0.0)


def test_one_client_cannot_take_all() -> None:
    admission = Admission(Limits(key_concurrency=1))
    first = admission.admit("a", 1.0)
    assert refusal(admission, "a").code == "too_many_requests"
    admission.admit("b", 1.0)
    first.leave()
    admission.admit("a", 1.0)


def test_the_rate_of_a_client_fills_with_time() -> None:
    clock = Clock()
    admission = Admission(Limits(key_requests_per_minute=2), clock)
    for _ in range(2):
        admission.admit("a", 1.0).leave()
    error = refusal(admission, "a")
    assert (error.code, error.retry_after) == ("rate_limit_exceeded", 30)
    admission.admit("b", 1.0)
    clock.now = 29.0
    assert refusal(admission, "a").retry_after == 1
    clock.now = 30.1
    admission.admit("a", 1.0)
    refusal(admission, "a")


def test_a_refusal_costs_nothing_of_the_rate() -> None:
    admission = Admission(Limits(key_requests_per_minute=2, running=1, queue=0), Clock())
    ticket = admission.admit("a", 1.0)
    for _ in range(5):
        assert refusal(admission, "a").code == "queue_full"
    ticket.leave()
    admission.admit("a", 1.0)


def test_nobody_is_let_in_while_the_server_shuts_down() -> None:
    admission = Admission(Limits())
    admission.close()
    error = refusal(admission)
    assert (error.status, error.code) == (503, "shutting_down")


def test_clients_who_left_are_forgotten() -> None:
    admission = Admission(Limits())
    staying = admission.admit("staying", 1.0)
    for i in range(5000):
        admission.admit(f"client-{i}", 1.0).leave()
    assert len(admission._clients) < 1100
    staying.leave()
    assert admission.audio_seconds == 0.0


def test_length_is_guessed_by_script_and_speed() -> None:
    assert expected_seconds("a" * 100) == pytest.approx(6.5)
    assert expected_seconds("好" * 100) == pytest.approx(22.0)
    assert expected_seconds("a" * 100, speed=2.0) == pytest.approx(3.25)
