from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosyvoice.errors import AudioError, SeveralSpeakersError, VoiceError
from cosyvoice.native.chunked_flow import _speaker_key
from cosyvoice.server.errors import RequestError
from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.voices import Reference, ServerVoices, Upload
from cosyvoice.voice.store import VoiceStore
from cosyvoice.voice.voice import Voice


@pytest.fixture
def voices(make_service: Callable[..., Any]) -> ServerVoices:
    return make_service().service.voices


@pytest.fixture
def upload(recording: bytes) -> Callable[..., Upload]:
    def make(name: str = "carla", **changes: Any) -> Upload:
        fields = {"reference": Reference(recording), "consent": "Carla, in writing", "provenance": "studio", **changes}
        return Upload(name, **fields)

    return make


def refused(call: Callable[[], object]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        call()
    return caught.value


def test_a_voice_is_kept_with_consent_and_provenance(voices: ServerVoices, upload: Any) -> None:
    voices.add(upload(description="calm"))
    assert voices.names() == ["anna", "bert", "carla"]
    kept = voices.get("carla")
    assert (kept.consent, kept.description) == ("Carla, in writing", "calm")
    assert kept.provenance.startswith("studio; cloned from")


@pytest.mark.parametrize("field", ["consent", "provenance"])
def test_neither_may_be_missing(voices: ServerVoices, upload: Any, field: str) -> None:
    error = refused(lambda: voices.add(upload(**{field: "  "})))
    assert (error.status, error.param) == (422, field)
    assert voices.uploaded() == []


def test_names_are_unique_and_presets_stay(voices: ServerVoices, upload: Any) -> None:
    voices.add(upload())
    for name in ("carla", "anna", "alloy", "Nova"):
        error = refused(lambda name=name: voices.add(upload(name)))  # type: ignore[misc]
        assert (error.status, error.code) == (409, "voice_exists")
    for name in ("anna", "alloy"):
        assert refused(lambda name=name: voices.remove(name)).status == 403  # type: ignore[misc]
    assert refused(lambda: voices.remove("nobody")).status == 404


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "", "x" * 65, "a\0b"])
def test_unsafe_names_are_refused(voices: ServerVoices, upload: Any, name: str) -> None:
    with pytest.raises(VoiceError, match="cannot be the name"):
        voices.add(upload(name))


def test_a_bad_recording_is_refused(voices: ServerVoices, upload: Any, make_speech: Any) -> None:
    with pytest.raises(AudioError):
        voices.add(upload(reference=Reference(b"no audio")))
    with pytest.raises(VoiceError, match="transcript"):
        voices.add(upload(reference=Reference(upload().reference.audio, "word " * 200)))
    assert voices.uploaded() == []


def test_count_and_space_are_limited(make_service: Callable[..., Any], upload: Any) -> None:
    few = make_service(limits={"voices": 1}).service.voices
    few.add(upload("one"))
    assert refused(lambda: few.add(upload("two"))).code == "too_many_voices"
    few.remove("one")
    small = make_service(limits={"voices_bytes": 1000}).service.voices
    assert refused(lambda: small.add(upload("three"))).code == "no_space"
    assert small.uploaded() == []


def test_a_deleted_voice_is_gone_everywhere(make_service: Callable[..., Any], upload: Any) -> None:
    """Two services on one directory stand for two processes; both have the voice in memory."""
    first, second = make_service().service.voices, make_service().service.voices
    first.add(upload())
    secret = second.get("carla").to_bytes()
    assert second.get("carla") is second.get("carla")
    first.remove("carla")
    for voices in (first, second):
        assert refused(lambda voices=voices: voices.get("carla")).code == "voice_not_found"  # type: ignore[misc]
    folder = first._store.directory
    assert all(secret[:64] not in file.read_bytes() for file in folder.iterdir())


def test_a_voice_that_is_replaced_is_read_again(voices: ServerVoices, upload: Any, make_voice: Any) -> None:
    voices.add(upload())
    before = voices.get("carla")
    voices.remove("carla")
    voices.add(upload(description="another"))
    assert voices.get("carla").description == "another" != before.description


def test_references_of_requests_are_remembered(make_service: Callable[..., Any], recording: bytes) -> None:
    fake = make_service(limits={"voice_cache": 2})
    voices = fake.service.voices
    assert voices.from_reference(Reference(recording)) is voices.from_reference(Reference(recording))
    assert b'result="hit"} 1.0' in fake.service.metrics.exposition()
    for name in ("anna", "bert"):
        voices.get(name)
    assert len(voices._cache) == 2


def test_names_of_openai_mean_presets_of_the_same_gender(voices: ServerVoices) -> None:
    assert voices.canonical("nova") == voices.canonical("Coral") == "anna"
    assert voices.canonical("onyx") == "bert"
    assert voices.canonical(None) == "anna"
    assert refused(lambda: voices.canonical("nobody")).status == 404


def test_files_of_a_killed_upload_are_cleared_away(make_service: Callable[..., Any]) -> None:
    folder = make_service().service.voices._store.directory
    folder.mkdir(exist_ok=True)
    old, fresh = folder / ".carla.safetensors.ab12.tmp", folder / ".dora.safetensors.cd34.tmp"
    for file in (old, fresh):
        file.write_bytes(b"half a voice")
    os.utime(old, (time.time() - 3600,) * 2)
    make_service()
    assert not old.exists() and fresh.exists()


def _add_again_and_again(folder: Path, started: Any) -> None:
    from cosyvoice.server.voices import _flush

    store = VoiceStore(folder)
    voice = Voice(
        name="carla",
        speech_token=np.arange(50, dtype=np.int32),
        mel=np.zeros((100, 80), np.float16),
        speaker_embedding=np.ones(192, np.float32),
    )
    started.set()
    while True:
        _flush(store.add(voice, overwrite=True))


def test_a_kill_while_a_voice_is_written_leaves_a_whole_voice_or_none(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for delay in (0.0, 0.003, 0.011):
        started = context.Event()
        writer = context.Process(target=_add_again_and_again, args=(tmp_path, started))
        writer.start()
        started.wait(10)
        time.sleep(delay)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        store = VoiceStore(tmp_path)
        for name in store.own_names():
            assert len(store.get(name).speech_token) == 50


@pytest.mark.anyio
async def test_nothing_of_a_deleted_voice_stays_in_memory(mini_fake: Any, recording: bytes) -> None:
    service = mini_fake.service
    voices, tts = service.voices, service.tts
    embedding = voices.add(Upload("carla", Reference(recording), "in writing", "studio")).voice.speaker_embedding

    def kept() -> tuple[int, int, int]:
        prompts = tts.model.stages.flow._prompts
        held = sum(key.startswith(_speaker_key(embedding)) for key in prompts._kept)
        return held, len(tts._encoded), len(voices._cache)

    async def speak() -> None:
        async for _ in service.submit(SpeechRequest("One.", "carla", seed=1)):
            pass

    await speak()
    assert kept() == (1, 1, 1)
    # As another process does it: the file goes, and this one is told nothing.
    voices._path("carla").unlink()
    voices.forget_deleted()
    assert kept() == (0, 0, 0)
    voices.add(Upload("carla", Reference(recording), "in writing", "studio"))
    job = service.submit(SpeechRequest("One.", "carla", seed=1))
    await job.ready()
    voices.remove("carla")
    async for _ in job:
        pass
    while service.under_way:
        await asyncio.sleep(0.01)
    assert kept() == (0, 0, 0)
    assert b"carla" not in b"".join(file.read_bytes() for file in voices._store.directory.iterdir())


def test_a_recording_of_several_people_is_refused(
    make_service: Callable[..., Any], upload: Any, monkeypatch: Any
) -> None:
    voices = make_service().service.voices

    def several(samples: np.ndarray, rate: int) -> None:
        raise SeveralSpeakersError("several")

    monkeypatch.setattr(voices._tts, "check_one_speaker", several)
    with pytest.raises(SeveralSpeakersError):
        voices.add(upload())
    assert voices.uploaded() == []


@pytest.mark.parametrize(("score", "warned"), [(None, False), (0.1, True), (0.9, False)])
def test_a_transcript_that_is_not_heard_is_warned_of(
    make_service: Callable[..., Any], upload: Any, monkeypatch: Any, score: float | None, warned: bool
) -> None:
    voices = make_service().service.voices
    monkeypatch.setattr(voices._tts, "transcript_score", lambda *_: score)
    assert bool(voices.add(upload()).warnings) == warned
