from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cosyvoice.errors import TextError
from cosyvoice.server.errors import Cancelled, RequestError
from cosyvoice.server.feed import TextFeed
from cosyvoice.server.job import SpeechJob
from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.service import SpeechService
from cosyvoice.server.voices import Reference

pytestmark = pytest.mark.anyio
TEXT = "one two three four five six seven eight"
LONG = "\n".join([TEXT] * 10)


async def speech(job: SpeechJob) -> np.ndarray:
    return np.concatenate([samples async for samples in job])


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.002)


async def test_each_request_gets_its_own_speech(make_service: Any) -> None:
    service: SpeechService = make_service(limits={"running": 4}).service
    texts = [f"{TEXT} number {i}" for i in range(12)]
    alone = [await speech(service.submit(SpeechRequest(text, seed=1))) for text in texts]
    jobs = [service.submit(SpeechRequest(text, seed=1)) for text in texts]
    together = await asyncio.gather(*(speech(job) for job in jobs))
    for expected, found in zip(alone, together, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert len({samples.tobytes() for samples in alone}) > 6


async def test_a_request_ends_with_nothing_held(make_service: Any) -> None:
    fake = make_service()
    job = fake.service.submit(SpeechRequest(TEXT, seed=4, request_id="abc"))
    samples = await speech(job)
    timings = job.timings
    assert (timings.seed, timings.request_id, timings.retries) == (4, "abc", 0)
    assert timings.audio == pytest.approx(len(samples) / 24000)
    assert 0 < timings.time_to_first_audio <= timings.total
    assert {"llm", "flow", "vocoder"} <= set(timings.stages)
    assert fake.llm.held == 0 and fake.service.under_way == 0 and fake.service.admission.audio_seconds == 0


async def test_volume_scales_and_limits(make_service: Any) -> None:
    service = make_service().service
    plain = await speech(service.submit(SpeechRequest(TEXT, seed=1)))
    loud = await speech(service.submit(SpeechRequest(TEXT, seed=1, volume=3.0)))
    np.testing.assert_allclose(loud, np.clip(3 * plain, -1, 1), atol=1e-6)


async def test_cancelling_frees_compute_within_a_step(make_service: Any) -> None:
    fake = make_service(delay=0.005)
    job = fake.service.submit(SpeechRequest(LONG))
    await job.ready()
    await job.aclose()
    steps = fake.llm.steps
    await until(lambda: fake.service.under_way == 0)
    assert fake.llm.steps <= steps + 2 and fake.llm.held == 0
    with pytest.raises(Cancelled):
        await speech(job)
    assert b'outcome="cancelled"} 1.0' in fake.service.metrics.exposition()


async def test_a_request_that_waits_can_be_cancelled(make_service: Any) -> None:
    gate = threading.Event()
    fake = make_service(gate=gate, limits={"running": 1})
    first, second = (fake.service.submit(SpeechRequest(TEXT)) for _ in range(2))
    await second.aclose()
    gate.set()
    await speech(first)
    await until(lambda: fake.service.under_way == 0)
    assert fake.llm.held == 0


async def test_overload_is_refused_and_recovers(make_service: Any) -> None:
    gate = threading.Event()
    fake = make_service(gate=gate, limits={"running": 2, "queue": 2})
    jobs = [fake.service.submit(SpeechRequest(TEXT)) for _ in range(4)]
    refusals = 0
    for _ in range(40):
        with pytest.raises(RequestError) as caught:
            fake.service.submit(SpeechRequest(TEXT))
        refusals += caught.value.status == 429 and (caught.value.retry_after or 0) >= 1
    assert refusals == 40
    gate.set()
    await asyncio.gather(*(speech(job) for job in jobs))
    await speech(fake.service.submit(SpeechRequest(TEXT)))
    assert fake.llm.held == 0
    assert b'outcome="refused"} 40.0' in fake.service.metrics.exposition()


async def test_a_reader_that_stops_is_given_up_and_its_place_freed(make_service: Any) -> None:
    fake = make_service(limits={"running": 1, "buffer_seconds": 0.1, "stall_seconds": 0.1})
    stuck = fake.service.submit(SpeechRequest(LONG))
    await stuck.ready()
    await until(lambda: fake.service.under_way == 0)
    with pytest.raises(RequestError) as caught:
        await speech(stuck)
    assert caught.value.status == 408
    assert fake.llm.held == 0


async def test_who_waits_for_its_client_lets_others_run(make_service: Any) -> None:
    fake = make_service(
        limits={"running": 1, "paused": 2, "buffer_seconds": 0.1, "stall_seconds": 30, "queue_seconds": 30}
    )
    service, admission = fake.service, fake.service.admission
    feed = TextFeed(1000, 30.0)
    writer, reader = service.submit(SpeechRequest(feed, seed=1)), service.submit(SpeechRequest(LONG, seed=2))
    await until(lambda: admission.paused == 2)
    assert (admission.running, admission.waiting) == (0, 0)
    await speech_of_next(service)
    # One more may run; when it waits for its client as well, memory for two is all that is held besides.
    third = service.submit(SpeechRequest(TextFeed(1000, 30.0)))
    await until(lambda: admission.paused == 3)
    fourth = service.submit(SpeechRequest("one"))
    await asyncio.sleep(0.05)
    assert admission.waiting == 1 and fake.llm.held == 1
    await third.aclose()
    assert len(await speech(fourth)) > 0
    feed.push(TEXT)
    feed.finish()
    alone = [service.submit(SpeechRequest(text, seed=seed)) for text, seed in ((TEXT, 1), (LONG, 2))]
    for job, same in zip((writer, reader), alone, strict=True):
        np.testing.assert_array_equal(await speech(job), await speech(same))
    await until(lambda: service.under_way == 0)
    assert (admission.running, admission.paused, admission.waiting, fake.llm.held) == (0, 0, 0, 0)


async def test_a_pause_that_is_cancelled_gives_everything_back(make_service: Any) -> None:
    gate = threading.Event()
    fake = make_service(gate=gate, limits={"running": 1, "queue_seconds": 30})
    service, admission = fake.service, fake.service.admission
    feed = TextFeed(1000, 30.0)
    writer = service.submit(SpeechRequest(feed))
    await until(lambda: admission.paused == 1)
    other = service.submit(SpeechRequest("one"))
    await until(lambda: admission.running == 1)
    # Its text is there, but the place is taken.
    feed.push("one\n")
    await asyncio.sleep(0.02)
    assert admission.paused == 1
    await writer.aclose()
    await until(lambda: admission.paused == 0)
    gate.set()
    await speech(other)
    assert fake.llm.held == 0


async def speech_of_next(service: SpeechService) -> None:
    job = service.submit(SpeechRequest("one"))
    assert len(await speech(job)) > 0


async def test_time_is_limited_in_the_queue_and_in_all(make_service: Any) -> None:
    fake = make_service(delay=0.01, limits={"running": 1, "request_seconds": 0.15, "queue_seconds": 0.05})
    first, second = (fake.service.submit(SpeechRequest(LONG)) for _ in range(2))
    with pytest.raises(RequestError) as caught:
        await speech(first)
    assert (caught.value.status, caught.value.code) == (504, "timeout")
    with pytest.raises(RequestError) as caught:
        await speech(second)
    assert (caught.value.status, caught.value.code) == (429, "queue_timeout")
    assert fake.llm.held == 0 and fake.service.under_way == 0


async def test_what_is_wrong_with_a_text_is_told_before_any_audio(make_service: Any) -> None:
    fake = make_service()
    job = fake.service.submit(SpeechRequest("unspeakable"))
    with pytest.raises(TextError):
        await job.ready()
    assert b'outcome="rejected"} 1.0' in fake.service.metrics.exposition()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": " \n"}, "input"),
        ({"text": "a" * 5000}, "input"),
        ({"speed": float("nan")}, "speed"),
        ({"speed": 0.1}, "speed"),
        ({"volume": float("inf")}, "volume_multiplier"),
        ({"volume": -1.0}, "volume_multiplier"),
        ({"seed": -1}, "seed"),
        ({"voice": "nobody"}, "voice"),
        ({"voice": "anna", "reference": Reference(b"")}, "voice"),
    ],
)
async def test_bad_requests_are_refused_at_once(make_service: Any, fields: dict[str, Any], param: str) -> None:
    service = make_service().service
    with pytest.raises(RequestError) as caught:
        service.submit(SpeechRequest(**{"text": TEXT, **fields}))
    assert caught.value.param == param and 400 <= caught.value.status < 500
    assert service.under_way == 0 and service.admission.waiting == 0


async def test_text_may_arrive_while_it_is_spoken(make_service: Any) -> None:
    fake = make_service()
    feed = TextFeed(1000, 5.0)
    job = fake.service.submit(SpeechRequest(feed, seed=1))
    feed.push("one two three. ")
    await asyncio.wait_for(job.ready(), 5)
    feed.push("four five six.")
    feed.finish()
    assert len(await speech(job)) > 0
    assert job.report is not None and len(job.report.pieces) == 2


async def test_cancelling_does_not_wait_for_text(make_service: Any) -> None:
    fake = make_service()
    job = fake.service.submit(SpeechRequest(TextFeed(1000, 60.0)))
    await until(lambda: fake.service.admission.paused == 1)
    await job.aclose()
    await until(lambda: fake.service.under_way == 0)


async def test_warm_up_makes_the_service_ready(make_service: Any) -> None:
    fake = make_service()
    assert fake.service.state == "starting"
    await fake.service.warm_up()
    assert fake.service.state == "ready" and fake.llm.steps > 0


async def test_a_model_that_cannot_speak_is_not_ready(make_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = make_service()

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("broken weights")

    monkeypatch.setattr(fake.service.tts.model.stages.flow, "step", broken)
    await fake.service.warm_up()
    assert fake.service.state == "failed"
    assert "broken" not in (fake.service.failure or "")


async def test_draining_completes_what_runs_and_lets_nobody_in(make_service: Any) -> None:
    fake = make_service(delay=0.002)
    await fake.service.warm_up()
    job = fake.service.submit(SpeechRequest(TEXT, seed=1))
    reading = asyncio.ensure_future(speech(job))
    await fake.service.drain()
    assert len(await reading) == job.report.samples  # type: ignore[union-attr]
    assert fake.service.state == "draining"
    with pytest.raises(RequestError) as caught:
        fake.service.submit(SpeechRequest(TEXT))
    assert caught.value.status == 503


async def test_draining_stops_what_takes_too_long(make_service: Any) -> None:
    fake = make_service(delay=0.01, limits={"drain_seconds": 0.05})
    job = fake.service.submit(SpeechRequest(LONG))
    await job.ready()
    await fake.service.drain()
    with pytest.raises(Cancelled):
        await speech(job)
    await until(lambda: fake.llm.held == 0)


async def test_leaving_at_random_moments_leaves_nothing_behind(make_service: Any) -> None:
    fake = make_service(delay=0.0005, limits={"running": 4, "queue": 64})
    random = np.random.default_rng(0)

    async def client(leave_after: float) -> None:
        job = fake.service.submit(SpeechRequest(LONG))
        try:
            await asyncio.wait_for(speech(job), leave_after)
        except asyncio.TimeoutError:
            pass
        finally:
            await job.aclose()

    await asyncio.gather(*(client(float(t)) for t in random.uniform(0.0, 0.3, 40)))
    await until(lambda: fake.service.under_way == 0)
    admission = fake.service.admission
    assert (fake.llm.held, admission.running, admission.waiting, admission.audio_seconds) == (0, 0, 0, 0)
