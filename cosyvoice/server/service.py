"""The service behind every front door: a loaded model, its voices, and the requests that are under way.

Requests are admitted, wait in a thread of their own for one of a fixed number of places, and speak then; the engine
itself gathers the steps of threads that run at the same time into one run of the language model. Between thread and
client is a bounded buffer. Who waits for its client, for text or to be read, gives its place away meanwhile. A request
ends in one of four ways, by its end, an error, its time or its client, and in each of them gives back everything at the
same place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Literal

import numpy as np

from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.streaming import StreamingConfig
from cosyvoice.errors import CosyVoiceError
from cosyvoice.server.admission import Admission, expected_seconds
from cosyvoice.server.channel import Channel
from cosyvoice.server.errors import CLIENT_CLOSED, Cancelled, RequestError, problem_of
from cosyvoice.server.feed import TextFeed
from cosyvoice.server.job import SpeechJob, drop, interruptible
from cosyvoice.server.memory import FreeMemory
from cosyvoice.server.metrics import Metrics
from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.settings import Settings
from cosyvoice.server.tracing import Tracer
from cosyvoice.server.voices import ServerVoices

WARM_UP_TEXT = "This is sentence 1 of 25, which nobody hears."
"""Its numbers also load what reads them aloud."""
_SECONDS_OF_A_FEED = 15.0
"""Speech that is expected of a text which is not written yet."""
_TIDY_SECONDS = 5.0
_log = logging.getLogger("cosyvoice.server")


class SpeechService:
    """Speaks requests of any number of clients.

    Args:
        tts: the loaded model.
        settings: of the server.
    """

    def __init__(self, tts: TTS, settings: Settings) -> None:
        self.tts, self.settings = tts, settings
        self.admission = Admission(settings.limits)
        self.metrics = Metrics(self.model_name, self.admission)
        self.voices = ServerVoices(tts, settings, self.metrics.voice)
        self.state: Literal["starting", "ready", "draining", "failed"] = "starting"
        """`ready` once a synthesis has succeeded."""
        self.failure: str | None = None
        """Why the warm-up failed."""
        self.delivering = 0
        """Connections that are sending speech, which may go on after its work has ended; counted in the event loop."""
        self._tracer = Tracer(settings.tracing)
        self._memory = FreeMemory()
        limits = settings.limits
        # A thread for everybody who is let in; the admission says how many of them run.
        self._workers = ThreadPoolExecutor(
            limits.running + limits.queue + limits.paused, thread_name_prefix="cosyvoice-speak"
        )
        self._jobs: dict[SpeechJob, Future[None]] = {}
        self._lock = threading.Lock()

    @property
    def model_name(self) -> str:
        """As clients name it."""
        return self.tts.model.config.name

    @property
    def sample_rate(self) -> int:
        """Of all speech, in Hz."""
        return self.tts.sample_rate

    @property
    def follows_instructions(self) -> bool:
        """Whether the model can be told how to speak."""
        return self.tts.model.follows_instructions

    async def warm_up(self) -> None:
        """Speak a sentence through the same path as every request; the service is ready when it worked."""
        try:
            job = self.submit(SpeechRequest(WARM_UP_TEXT, seed=0, client="warm-up", request_id="warm-up"))
            async for _ in job:
                pass
        except CosyVoiceError as error:
            self._fail(str(error))
            _log.error("the warm-up failed: %s", error)
        except Exception:
            self._fail("the warm-up failed; see the log")
            _log.exception("the warm-up failed")
        else:
            if self.state == "starting":
                self.state = "ready"
            _log.info("ready", extra={"warm_up_seconds": round(job.timings.total, 3)})

    def submit(self, request: SpeechRequest) -> SpeechJob:
        """Let a request in; called in the event loop of its reader.

        `await job.ready()` before an answer is begun: it raises what is wrong with the request as its work finds out.
        Raises `RequestError` for what is wrong at first sight, for an unknown voice, and where a limit is reached.
        """
        limits = self.settings.limits
        try:
            request.check(limits)
            if request.reference is None:
                self.voices.canonical(request.voice)
            ticket = self.admission.admit(request.client, _expected(request))
        except RequestError as error:
            self.metrics.request("refused" if error.status in (429, 503) else "rejected")
            raise
        now = time.monotonic()
        buffer = int(limits.buffer_seconds * self.sample_rate)
        channel = Channel(buffer, limits.stall_seconds, asyncio.get_running_loop(), ticket.paused)
        job = SpeechJob(request, ticket, channel, now + limits.request_seconds, now + limits.queue_seconds)
        with self._lock:
            self._jobs[job] = self._workers.submit(self._work, job)
        return job

    async def tidy_up(self) -> None:
        """Until it is cancelled: forget the voices that other processes delete, and give back the memory that the last
        requests have left."""
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            for task in (self.voices.forget_deleted, self._memory.give_back):
                with contextlib.suppress(Exception):
                    await asyncio.to_thread(task)

    def begin_drain(self) -> None:
        """Let nobody in any more; what is under way goes on."""
        self.state = "draining"
        self.admission.close()

    async def drain(self) -> None:
        """Wait for what is under way as long as settings say, then stop it."""
        self.begin_drain()
        deadline = time.monotonic() + self.settings.limits.drain_seconds
        while (self.under_way or self.delivering) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        drop(self._snapshot())
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _fail(self, message: str) -> None:
        if self.state == "starting":
            self.state, self.failure = "failed", message

    @property
    def under_way(self) -> int:
        """Requests that run or wait."""
        return len(self._snapshot())

    def _snapshot(self) -> list[SpeechJob]:
        with self._lock:
            return list(self._jobs)

    def _work(self, job: SpeechJob) -> None:
        """Everything that is done for a request, in a worker thread."""
        error: BaseException | None = None
        try:
            job.interrupt()
            job.ticket.start(job.interrupt)
            job.started_at = time.monotonic()
            self.metrics.started(job.started_at - job.admitted_at)
            with self._tracer.request(job):
                self._speak(job)
        except BaseException as caught:
            error = caught
        finally:
            self._end(job, error)

    def _speak(self, job: SpeechJob) -> None:
        request = job.request
        if isinstance(request.text, TextFeed):
            request.text.pausing = job.ticket.paused
        if request.reference is not None:
            voice = self.voices.from_reference(request.reference)
        else:
            voice = self.voices.get(request.voice)
        job.interrupt()
        tts = TTS(interruptible(self.tts.model, job), self.tts.store)
        streaming = _streaming(request.chunk_tokens, self.tts.model.default_streaming)
        stream = tts.stream(
            request.text,
            voice,
            seed=request.seed,
            speed=request.speed,
            instruct=request.instruct,
            streaming=streaming,
            sampling=request.sampling,
            language=request.language,
            normalise=request.normalise,
        )
        job.report = stream.report
        most = self._samples(request)
        # The feed before the stream, which else waits for a step that waits for text.
        feed = closing(request.text) if isinstance(request.text, TextFeed) else contextlib.nullcontext()
        with closing(stream), feed:
            for chunk in stream:
                if job.first_audio_at is None:
                    job.first_audio_at = time.monotonic()
                    self.metrics.first_audio(job.first_audio_at - job.admitted_at)
                samples = chunk.samples[: most - chunk.offset]
                if request.volume != 1.0:
                    samples = np.clip(samples * np.float32(request.volume), -1.0, 1.0)
                job.channel.put(samples)
                if chunk.offset + len(samples) >= most:
                    return
                job.interrupt()

    def _samples(self, request: SpeechRequest) -> int:
        """How many are given at most."""
        if request.max_tokens is None:
            return sys.maxsize
        return int(request.max_tokens * self.sample_rate / self.tts.model.token_rate / request.speed)

    def _end(self, job: SpeechJob, error: BaseException | None) -> None:
        """Give back what the request held, count it, and tell its reader; nothing may be left out on any way here."""
        job.ended_at = time.monotonic()
        job.ticket.leave()
        with self._lock:
            self._jobs.pop(job, None)
        outcome = _outcome(error)
        with contextlib.suppress(Exception):
            self._account(job, outcome, error)
        job.channel.finish(error)
        with contextlib.suppress(Exception):
            self.voices.forget_deleted()
        self._memory.freed()

    def _account(self, job: SpeechJob, outcome: str, error: BaseException | None) -> None:
        self.metrics.request(outcome)
        report = job.report
        if report is not None:
            self.metrics.worked(report)
            if outcome == "ok":
                self.metrics.spoken(report, len(job.request.text), (job.ended_at or 0.0) - job.admitted_at)
                self.admission.note_pace(report.duration, report.seconds)
        timings = job.timings
        fields = {
            "request_id": job.request.request_id,
            "outcome": outcome,
            "characters": len(job.request.text),
            "audio_seconds": round(timings.audio, 3),
            "queue_seconds": round(timings.queue, 4),
            "first_audio_seconds": round(timings.time_to_first_audio, 4),
            "total_seconds": round(timings.total, 4),
            "seed": timings.seed,
        }
        if outcome == "failed":
            _log.error("speech failed", extra=fields, exc_info=error)
        else:
            _log.info("speech", extra=fields)


def _expected(request: SpeechRequest) -> float:
    """About how many seconds of speech are asked for."""
    if isinstance(request.text, TextFeed):
        return _SECONDS_OF_A_FEED / request.speed
    return expected_seconds(request.text, request.speed)


def _streaming(chunk_tokens: int | None, default: StreamingConfig) -> StreamingConfig:
    if chunk_tokens is None:
        return default
    return replace(default, hop=chunk_tokens, max_hop=max(chunk_tokens, default.max_hop))


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "ok"
    if isinstance(error, Cancelled):
        return "cancelled"
    status = problem_of(error).status
    if status in (408, 504):
        return "timeout"
    if status in (429, 503):
        return "refused"
    return "failed" if status >= 500 or status == CLIENT_CLOSED else "rejected"
