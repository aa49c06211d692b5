from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from cosyvoice.server.app import create_app

pytestmark = pytest.mark.anyio
SPEECH = "/v1/audio/speech"


def assert_openai_error(response: httpx.Response, status: int, param: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    if param is not None:
        assert error["param"] == param
    return error


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": ""}, 400, "input"),
        ({}, 400, "input"),
        ({"input": None}, 400, "input"),
        ({"input": ["a"]}, 400, "input"),
        ({"input": "x" * 1_000_000}, 400, "input"),
        ({"input": " \t"}, 422, "input"),
        ({"input": "unspeakable"}, 422, "input"),
        ({"input": "a", "voice": "nobody"}, 404, "voice"),
        ({"input": "a", "voice": 5}, 400, "voice"),
        ({"input": "a", "voice": {"name": "anna"}}, 400, "voice"),
        ({"input": "a", "model": "gpt-9"}, 404, "model"),
        ({"input": "a", "response_format": "ogg"}, 400, "response_format"),
        ({"input": "a", "stream_format": "ws"}, 400, "stream_format"),
        ({"input": "a", "speed": 0.2}, 400, "speed"),
        ({"input": "a", "speed": "fast"}, 400, "speed"),
        ({"input": "a", "speed": "1"}, 400, "speed"),
        ({"input": "a", "seed": -1}, 400, "seed"),
        ({"input": "a", "seed": True}, 400, "seed"),
        ({"input": "a", "return_timing": 0.0}, 400, "return_timing"),
        ({"input": "a", "stream": "yes"}, 400, "stream"),
        ({"input": "a", "seed": 1.5}, 400, "seed"),
        ({"input": "a", "volume_multiplier": 9}, 400, "volume_multiplier"),
        ({"input": "a", "chunk_tokens": 7}, 422, None),
        ({"input": "a", "ref_text": "b"}, 422, "ref_text"),
        ({"input": "a", "ref_audio": "%%%"}, 422, "ref_audio"),
        ({"input": "a", "ref_audio": "bm8gYXVkaW8="}, 422, "ref_audio"),
        ({"input": "a", "ref_audio": "http://127.0.0.1/a.wav"}, 422, "ref_audio"),
        ({"input": "a", "task_type": "VoiceDesign"}, 422, "task_type"),
        ({"input": "a", "task_type": "instruct", "instructions": "sadly"}, 422, "instructions"),
        ({"input": "a", "language": "Klingonese!"}, 422, "language"),
        ({"input": "a", "top_k": 0}, 400, "top_k"),
        ({"input": "a", "top_p": 1.5}, 400, "top_p"),
        ({"input": "a", "temperature": -0.1}, 400, "temperature"),
        ({"input": "a", "max_new_tokens": 0}, 400, "max_new_tokens"),
    ],
)
async def test_bad_input_is_named(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, param: str | None
) -> None:
    assert_openai_error(await client.post(SPEECH, json=body), status, param)


async def test_a_whole_number_may_be_written_with_a_point(client: httpx.AsyncClient) -> None:
    body = {"input": "a", "speed": 1, "seed": 5.0, "top_k": 10.0, "max_new_tokens": 40.0}
    assert (await client.post(SPEECH, json=body)).status_code == 200


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b'{"input": "a", "speed": NaN}', b"[" * 20000]
)
async def test_malformed_bodies_are_refused(client: httpx.AsyncClient, content: bytes) -> None:
    response = await client.post(SPEECH, content=content, headers={"content-type": "application/json"})
    assert_openai_error(response, 400)


async def test_other_methods_and_paths(client: httpx.AsyncClient) -> None:
    assert_openai_error(await client.get("/v1/nothing"), 404)
    response = await client.put("/v1/audio/voices")
    assert_openai_error(response, 405)
    assert response.headers["allow"] == "GET, POST"


async def test_large_bodies_are_refused_before_they_are_read(make_service: Any, make_client: Any) -> None:
    fake = make_service(limits={"upload_bytes": 1024})
    most = 1024 * 4 // 3 + (1 << 18)
    taken = 0

    async def endless() -> Any:
        nonlocal taken
        for _ in range(1000):
            taken += 1 << 16
            yield b" " * (1 << 16)

    async with make_client(fake) as client:
        headers = {"content-type": "application/json"}
        declared = {**headers, "content-length": str(most + 1)}
        assert_openai_error(await client.post(SPEECH, content=b"{}", headers=declared), 413)
        assert_openai_error(await client.post(SPEECH, content=endless(), headers=headers), 413)
        assert taken < most + 3 * (1 << 16)
        assert_openai_error(await client.post(SPEECH, content=b"{}", headers={**headers, "content-length": "-5"}), 400)


async def test_keys_guard_everything_but_health(make_service: Any, make_client: Any) -> None:
    fake = make_service(api_keys=["secret"])
    async with make_client(fake) as client:
        for method, path in (("POST", SPEECH), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/v1/audio/voices")):
            response = await client.request(method, path)
            assert_openai_error(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
        for path in ("/health", "/livez", "/readyz", "/openapi.json"):
            assert (await client.get(path)).status_code in (200, 503)
        headers = {"authorization": "Bearer secret"}
        assert (await client.get("/v1/models", headers=headers)).status_code == 200


async def test_clients_are_limited_apart(make_service: Any, make_client: Any) -> None:
    fake = make_service(api_keys=["a", "b"], limits={"key_requests_per_minute": 1})
    async with make_client(fake) as client:
        answers = [
            await client.post(SPEECH, json={"input": "one"}, headers={"authorization": f"Bearer {key}"})
            for key in ("a", "a", "b")
        ]
    assert [answer.status_code for answer in answers] == [200, 429, 200]
    assert int(answers[1].headers["retry-after"]) >= 1
    assert assert_openai_error(answers[1], 429)["type"] == "rate_limit_error"


async def test_a_failure_inside_shows_nothing_of_it(make_service: Any, make_client: Any, caplog: Any) -> None:
    fake = make_service()

    def broken(*_: Any) -> Any:
        raise RuntimeError("secret detail")

    fake.service.tts.model.stages.flow.step = broken
    async with make_client(fake) as client:
        response = await client.post(SPEECH, json={"input": "one two"}, headers={"x-request-id": "mine-1"})
    assert "secret" not in response.text
    assert assert_openai_error(response, 500)["type"] == "server_error"
    assert response.headers["x-request-id"] == "mine-1"
    assert "secret detail" in caplog.text


async def test_request_ids_are_made_where_the_own_one_is_unfit(client: httpx.AsyncClient) -> None:
    response = await client.get("/livez", headers={"x-request-id": "bad id\t"})
    assert response.headers["x-request-id"].startswith("req-")


async def test_logs_hold_neither_text_nor_audio(client: httpx.AsyncClient, caplog: Any) -> None:
    caplog.set_level("DEBUG", "cosyvoice")
    await client.post(SPEECH, json={"input": "extraordinary words", "voice": "anna", "instructions": "whispering"})
    lines = [str(vars(record)) for record in caplog.records if record.name.startswith("cosyvoice")]
    assert any("'outcome': 'ok'" in line for line in lines)
    assert not any(word in line for line in lines for word in ("extraordinary", "whispering"))


async def test_pages_of_other_origins_may_not_call_unless_told(make_service: Any, make_client: Any) -> None:
    origin = {"origin": "https://page.test", "access-control-request-method": "POST"}
    async with make_client(make_service()) as client:
        assert "access-control-allow-origin" not in (await client.get("/livez", headers=origin)).headers
    async with make_client(make_service(cors_origins=["https://page.test"], api_keys=["k"])) as client:
        preflight = await client.options(SPEECH, headers=origin)
        assert preflight.headers["access-control-allow-origin"] == "https://page.test"


async def test_the_document_names_limits_errors_and_keys(make_service: Callable[..., Any]) -> None:
    fake = make_service(limits={"text_characters": 77}, api_keys=["k"])
    document = create_app(fake.settings, fake.service).openapi()
    assert document["components"]["schemas"]["SpeechBody"]["properties"]["input"]["maxLength"] == 77
    operation = document["paths"][SPEECH]["post"]
    assert {"200", "400", "401", "404", "413", "422", "429", "503"} <= set(operation["responses"])
    assert operation["security"] and "audio/mpeg" in operation["responses"]["200"]["content"]
    assert "security" not in document["paths"]["/livez"]["get"]
    open_document = create_app(make_service().settings, fake.service).openapi()
    assert "security" not in open_document["paths"][SPEECH]["post"]
