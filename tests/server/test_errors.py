from __future__ import annotations

import pytest

from cosyvoice.errors import (
    AudioError,
    ConfigError,
    GenerationError,
    ModelError,
    OutputError,
    SeveralSpeakersError,
    TextError,
    VoiceError,
)
from cosyvoice.server.errors import Cancelled, RequestError, problem_of


@pytest.mark.parametrize(
    ("error", "status", "param"),
    [
        (TextError("t"), 422, "input"),
        (AudioError("a"), 422, "ref_audio"),
        (SeveralSpeakersError("s"), 422, "ref_audio"),
        (VoiceError("v"), 422, "voice"),
        (ConfigError("c"), 422, None),
        (GenerationError("g"), 422, "input"),
        (RequestError("r", status=404, param="x"), 404, "x"),
        (Cancelled(), 499, None),
    ],
)
def test_what_a_client_provokes_names_the_field(error: Exception, status: int, param: str | None) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.param, problem.kind) == (status, param, "invalid_request_error")
    assert problem.message == str(error)


@pytest.mark.parametrize("error", [ModelError("/srv/models/x"), OutputError("/srv/voices"), KeyError("secret")])
def test_what_the_server_did_wrong_is_told_without_details(error: Exception) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.kind) == (500, "server_error")
    assert "srv" not in problem.message and "secret" not in problem.message


def test_headers_follow_the_status() -> None:
    busy = problem_of(RequestError("b", status=429, retry_after=7))
    assert busy.headers() == {"Retry-After": "7"}
    assert problem_of(RequestError("k", status=401)).headers() == {"WWW-Authenticate": "Bearer"}
