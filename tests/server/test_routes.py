"""What the routes answer where nothing is wrong."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from cosyvoice.engine.alignment import WordTime
from cosyvoice.engine.pipeline import TTS
from cosyvoice.server.encoding import FORMATS, MEDIA_TYPES

pytestmark = pytest.mark.anyio
SPEECH = "/v1/audio/speech"
TEXT = "one two three four"


def pcm(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<i2")


def events(text: str) -> list[dict[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        kind, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        found.append(event)
    return found


@pytest.mark.parametrize("audio_format", FORMATS)
async def test_every_format_comes_under_its_type(client: httpx.AsyncClient, audio_format: str) -> None:
    response = await client.post(SPEECH, json={"input": TEXT, "response_format": audio_format})
    assert response.status_code == 200
    assert response.headers["content-type"] == MEDIA_TYPES[audio_format]  # type: ignore[index]
    assert len(response.content) > 1000


async def test_mp3_is_what_openai_gives_where_nothing_is_asked(client: httpx.AsyncClient) -> None:
    response = await client.post(SPEECH, json={"input": TEXT, "model": "tts-1", "voice": "alloy", "unknown": 1})
    assert response.headers["content-type"] == "audio/mpeg" and response.content[:1] == b"\xff"


async def test_a_seed_gives_the_same_samples_again(client: httpx.AsyncClient) -> None:
    body = {"input": TEXT, "response_format": "pcm", "seed": 3}
    first, second = [(await client.post(SPEECH, json=body)).content for _ in range(2)]
    assert first == second


async def test_events_carry_the_same_audio(client: httpx.AsyncClient) -> None:
    body = {"input": TEXT, "response_format": "pcm", "seed": 3}
    plain = (await client.post(SPEECH, json=body)).content
    for asked in ({"stream_format": "sse"}, {"stream": True}):
        response = await client.post(SPEECH, json={**body, **asked, "return_timing": True})
        assert response.headers["content-type"].startswith("text/event-stream")
        *deltas, done = events(response.text)
        assert {event["type"] for event in deltas} == {"speech.audio.delta"}
        assert b"".join(base64.b64decode(event["audio"]) for event in deltas) == plain
        assert done["type"] == "speech.audio.done"
        usage = done["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] and usage["output_tokens"] == 36
        assert done["timings"]["seed"] == 3


async def test_an_error_amid_the_events_is_the_last_one(make_service: Any, make_client: Any) -> None:
    fake = make_service()
    calls = 0
    step = fake.service.tts.model.stages.flow.step

    def sometimes(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise RuntimeError("broken")
        return step(*arguments)

    fake.service.tts.model.stages.flow.step = sometimes
    async with make_client(fake) as client:
        response = await client.post(SPEECH, json={"input": "\n".join([TEXT] * 5), "stream_format": "sse"})
    last = events(response.text)[-1]
    assert (last["type"], last["error"]["type"]) == ("error", "server_error")


async def test_timings_come_in_a_header(client: httpx.AsyncClient) -> None:
    response = await client.post(SPEECH, json={"input": TEXT, "response_format": "wav", "return_timing": True})
    samples, rate = soundfile.read(io.BytesIO(response.content))
    timings = json.loads(response.headers["x-cosyvoice-timings"])
    assert timings["audio"] == pytest.approx(len(samples) / rate, abs=1e-3)
    assert {"llm", "flow", "vocoder"} <= set(timings["stages"])


async def test_fields_without_effect_are_named(client: httpx.AsyncClient) -> None:
    body = {"input": TEXT, "instructions": "sadly", "language": "English"}
    response = await client.post(SPEECH, json=body)
    assert response.headers["x-cosyvoice-ignored"] == "instructions, language"


async def test_speech_ends_after_as_many_tokens_as_are_wanted(client: httpx.AsyncClient) -> None:
    body = {"input": "\n".join([TEXT] * 3), "response_format": "pcm", "seed": 1}
    whole = (await client.post(SPEECH, json=body)).content
    part = (await client.post(SPEECH, json={**body, "max_new_tokens": 30})).content
    rate = 24000 // 25
    assert len(part) == 2 * 30 * rate < len(whole) and whole.startswith(part)
    assert (await client.post(SPEECH, json={**body, "max_new_tokens": 100_000})).content == whole


async def test_sampling_is_the_requests_own(make_service: Any, make_client: Any) -> None:
    fake = make_service()
    seen = []
    generate = fake.service.tts.model.generate

    def watched(ids: Any, prompt: Any, sampler: Any, limit: Any) -> Any:
        seen.append((sampler.config.top_k, sampler.config.top_p, sampler._temperature))
        return generate(ids, prompt, sampler, limit)

    fake.service.tts.model.generate = watched
    own = fake.service.tts.model.config.llm.sampling
    async with make_client(fake) as client:
        for options in ({}, {"top_k": 3, "temperature": 0.5}, {"top_p": 0.25}):
            assert (await client.post(SPEECH, json={"input": TEXT, **options})).status_code == 200
    assert seen == [(own.top_k, own.top_p, 1.0), (3, own.top_p, 0.5), (own.top_k, 0.25, 1.0)]


async def test_word_times_come_in_json_without_events(
    make_service: Any, make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = make_service()
    monkeypatch.setattr(TTS, "align", lambda *_: [WordTime("word", 0.0, 0.5, 0.9)])
    body = {"input": TEXT, "response_format": "wav", "return_timestamps": True, "return_timing": True}
    async with make_client(fake) as client:
        response = await client.post(SPEECH, json=body)
    answer = response.json()
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(answer["audio"])))
    assert answer["media_type"] == "audio/wav" and answer["timings"]["audio"] == pytest.approx(len(samples) / rate)
    assert answer["timestamps"] == [{"word": "word", "start": 0.0, "end": 0.5, "score": 0.9}]
    assert answer["usage"]["output_tokens"] > 0


async def test_a_recording_is_spoken_like(client: httpx.AsyncClient, recording: bytes) -> None:
    encoded = base64.b64encode(recording).decode()
    body = {"input": TEXT, "voice": "alloy", "response_format": "pcm", "seed": 1}
    for audio in (encoded, f"data:audio/wav;base64,{encoded}"):
        response = await client.post(SPEECH, json={**body, "ref_audio": audio, "ref_text": "one two three four five"})
        assert response.status_code == 200, response.text
    response = await client.post(SPEECH, json={**body, "ref_audio": encoded, "ref_text": "word " * 500})
    assert response.json()["error"]["param"] == "voice"
    response = await client.post(
        SPEECH, json={**body, "ref_audio": encoded, "ref_text": "word " * 500, "x_vector_only_mode": True}
    )
    assert response.status_code == 200


async def test_a_batch_answers_for_each_item(client: httpx.AsyncClient) -> None:
    items = [{"input": TEXT}, {"input": "unspeakable"}, {"input": "one", "voice": "bert", "response_format": "mp3"}]
    body = {"items": items, "voice": "anna", "response_format": "wav", "seed": 5}
    answer = (await client.post(f"{SPEECH}/batch", json=body)).json()
    assert (answer["total"], answer["succeeded"], answer["failed"]) == (3, 2, 1)
    first, failed, last = answer["results"]
    samples, _ = soundfile.read(io.BytesIO(base64.b64decode(first["audio_data"])))
    assert len(samples) > 10000 and first["media_type"] == "audio/wav"
    assert failed["error"]["param"] == "input" and "audio_data" not in failed
    assert last["media_type"] == "audio/mpeg"


@pytest.mark.parametrize(("items", "status"), [([], 400), ([{"input": "a"}] * 33, 400), ([{"input": "a" * 5000}], 400)])
async def test_batches_are_bounded(client: httpx.AsyncClient, items: list[Any], status: int) -> None:
    response = await client.post(f"{SPEECH}/batch", json={"items": items})
    assert response.status_code == status and response.json()["error"]["param"] == "items"


async def test_a_batch_that_the_server_is_too_busy_for_is_to_come_again(make_service: Any, make_client: Any) -> None:
    fake = make_service(limits={"key_requests_per_minute": 1})
    async with make_client(fake) as client:
        await client.post(SPEECH, json={"input": "one"})
        response = await client.post(f"{SPEECH}/batch", json={"items": [{"input": "one"}]})
    assert response.status_code == 429 and "retry-after" in response.headers


async def test_models_are_listed_for_openai_and_open_webui(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list" and [model["id"] for model in listed["data"]][:2] == ["fake", "tts-1"]
    assert {"id": "fake"} in (await client.get("/v1/audio/models")).json()["models"]
    assert (await client.get("/v1/models/tts-1")).json()["id"] == "tts-1"
    assert (await client.get("/v1/models/other")).status_code == 404


async def test_a_voice_lives_from_upload_to_deletion(client: httpx.AsyncClient, recording: bytes) -> None:
    files = {"audio_sample": ("carla.wav", recording, "audio/wav")}
    form = {"name": "carla", "consent": "Carla, in writing", "speaker_description": "calm"}
    assert (await client.post("/v1/audio/voices", files=files)).json()["error"]["param"] == "name"
    no_consent = await client.post("/v1/audio/voices", files=files, data={"name": "carla"})
    assert (no_consent.status_code, no_consent.json()["error"]["param"]) == (400, "consent")
    added = await client.post("/v1/audio/voices", files=files, data=form)
    assert added.status_code == 200 and added.json()["voice"]["name"] == "carla"
    assert added.json()["voice"]["provenance"].startswith("uploaded as carla.wav; cloned from")
    again = await client.post("/v1/audio/voices", files=files, data=form)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "voice_exists")
    listed = (await client.get("/v1/audio/voices")).json()
    assert {"id": "carla", "name": "carla"} in listed["voices"] and {"id": "nova", "name": "nova"} in listed["voices"]
    assert listed["uploaded_voices"][0]["consent"] == "Carla, in writing"
    body = {"input": TEXT, "voice": {"id": "carla"}}
    assert (await client.post(SPEECH, json=body)).status_code == 200
    assert (await client.delete("/v1/audio/voices/carla")).json()["success"] is True
    assert (await client.delete("/v1/audio/voices/carla")).status_code == 404
    assert (await client.post(SPEECH, json=body)).status_code == 404


@pytest.mark.parametrize("content", [b"", b"no audio at all", b"RIFF" + bytes(100)])
async def test_an_upload_that_is_no_audio_is_refused(client: httpx.AsyncClient, content: bytes) -> None:
    files = {"audio_sample": ("a.wav", content, "audio/wav")}
    response = await client.post("/v1/audio/voices", files=files, data={"name": "x", "consent": "yes"})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "audio_sample")


async def test_health_tells_life_from_readiness(make_service: Any, make_client: Any) -> None:
    fake = make_service()
    async with make_client(fake) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).json()["status"] == "starting"
        assert (await client.get("/health")).status_code == 503
        await fake.service.warm_up()
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/health")).json()["speakers"] == ["anna", "bert"]
        fake.service.begin_drain()
        assert (await client.get("/readyz")).json()["status"] == "draining"
        refused = await client.post(SPEECH, json={"input": "one"})
        assert refused.status_code == 503 and "retry-after" in refused.headers


async def test_metrics_count(client: httpx.AsyncClient) -> None:
    await client.post(SPEECH, json={"input": TEXT})
    await client.post(SPEECH, json={"input": TEXT, "voice": "nobody"})
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    for line in (
        'cosyvoice_requests_total{model_name="fake",outcome="ok"} 1.0',
        'cosyvoice_requests_total{model_name="fake",outcome="rejected"} 1.0',
        'cosyvoice_time_to_first_audio_seconds_count{model_name="fake"} 1.0',
        'cosyvoice_rtf_count{model_name="fake"} 1.0',
        'cosyvoice_requests_running{model_name="fake"} 0.0',
        'route="/v1/audio/speech",status="404"} 1.0',
    ):
        assert line in response.text


async def test_the_native_route_answers_with_a_whole_file(client: httpx.AsyncClient, recording: bytes) -> None:
    response = await client.post("/synthesize", json={"text": TEXT, "speaker": "bert"})
    samples, rate = soundfile.read(io.BytesIO(response.content))
    assert float(response.headers["x-audio-duration"]) == pytest.approx(len(samples) / rate, abs=1e-3)
    prompt = base64.b64encode(recording).decode()
    for body in ({"prompt_audio": "anna"}, {"prompt_audio": prompt, "prompt_text": "one two three four five"}):
        assert (await client.post("/synthesize", json={"text": TEXT, **body})).status_code == 200
    assert (await client.get("/speakers")).json() == {"speakers": ["anna", "bert"]}
    for body in ({"text": ""}, {"text": TEXT, "speed": 0}):
        assert (await client.post("/synthesize", json=body)).status_code == 400


async def test_paths_are_refused_unless_a_folder_is_allowed(
    make_service: Any, make_client: Any, tmp_path: Path, recording: bytes
) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "a.wav").write_bytes(recording)
    (tmp_path / "secret.wav").write_bytes(recording)
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    outside = ["/etc/passwd", "../secret.wav", str(tmp_path / "secret.wav"), "link.wav"]
    async with make_client(make_service()) as client:
        for path in (*outside, "a.wav"):
            response = await client.post("/synthesize", json={"text": TEXT, "prompt_audio": path})
            assert response.json()["error"]["code"] == "path_not_allowed"
    async with make_client(make_service(prompt_folder=folder)) as client:
        for path in outside:
            response = await client.post("/synthesize", json={"text": TEXT, "prompt_audio": path})
            assert response.json()["error"]["code"] == "path_not_allowed"
        assert (await client.post("/synthesize", json={"text": TEXT, "prompt_audio": "b.wav"})).status_code == 404
        assert (await client.post("/synthesize", json={"text": TEXT, "prompt_audio": "a.wav"})).status_code == 200


@pytest.mark.parametrize(
    ("language", "status"), [("pt", 422), ("Portuguese", 422), ("12", 422), ("de-AT", 200), ("auto", 200)]
)
async def test_a_language_that_the_model_does_not_read_is_refused(
    client: httpx.AsyncClient, language: str, status: int
) -> None:
    response = await client.post("/v1/audio/speech", json={"input": TEXT, "language": language})
    assert response.status_code == status
    if status == 422:
        error = response.json()["error"]
        assert (error["param"], error["code"]) == ("language", "unsupported_language")
        assert "does not read " in error["message"] and "German" in error["message"]


async def test_text_is_read_as_it_stands_where_that_is_asked_for(client: httpx.AsyncClient) -> None:
    body = {"input": "one two\nthree four", "seed": 1, "response_format": "pcm", "return_download_link": True}
    plain = await client.post("/v1/audio/speech", json=body)
    body["normalization_options"] = {"normalize": False, "url_normalization": True}
    whole = await client.post("/v1/audio/speech", json=body)
    # In one piece, so without the pause between two.
    assert plain.status_code == whole.status_code == 200 and len(whole.content) < len(plain.content)
    assert whole.headers["x-cosyvoice-ignored"] == "return_download_link"
    for wrong in ({"normalization_options": {"normalize": "maybe"}}, {"input": "word " * 200}):
        refused = await client.post("/v1/audio/speech", json={**body, **wrong})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "normalization_options"
