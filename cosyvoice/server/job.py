"""One request on its way: queued, speaking, ended. The reader holds a `SpeechJob`, a worker thread fills it."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Generator, Sequence
from typing import Any, cast

from cosyvoice.engine.models import CosyVoiceModel
from cosyvoice.engine.speech import Report
from cosyvoice.engine.stages import FloatArray
from cosyvoice.server.admission import Ticket
from cosyvoice.server.channel import Channel
from cosyvoice.server.errors import Cancelled, RequestError
from cosyvoice.server.feed import TextFeed
from cosyvoice.server.requests import SpeechRequest, Timings


class SpeechJob:
    """An asynchronous iterator of samples [time], float32 in [-1, 1]; `aclose` it in the end, whatever happened.

    Args:
        request: checked already.
        ticket: of the admission; given back when the work has ended.
        channel: between the thread and the reader.
        deadline: `time.monotonic()` at which the request is given up.
        start_before: the same for its time in the queue.
    """

    def __init__(
        self, request: SpeechRequest, ticket: Ticket, channel: Channel, deadline: float, start_before: float
    ) -> None:
        self.request, self.ticket, self.channel = request, ticket, channel
        self.report: Report | None = None
        self.admitted_at = time.monotonic()
        self.started_at: float | None = None
        self.first_audio_at: float | None = None
        self.ended_at: float | None = None
        self._deadline, self._start_before = deadline, start_before
        self._cancelled = threading.Event()

    async def ready(self) -> None:
        """Until the first samples are there. Raises why there will be none."""
        await self.channel.wait()

    def __aiter__(self) -> AsyncIterator[FloatArray]:
        return self

    async def __anext__(self) -> FloatArray:
        samples = await self.channel.get()
        if samples is None:
            raise StopAsyncIteration
        return samples

    def cancel(self) -> None:
        """Stop within one step of the language model, or one chunk of flow and vocoder. From any thread."""
        self._cancelled.set()
        if isinstance(self.request.text, TextFeed):
            self.request.text.close()
        self.channel.close()
        self.ticket.wake()

    async def aclose(self) -> None:
        """Stop where it is still speaking; after the end this does nothing."""
        if self.ended_at is None:
            self.cancel()

    def interrupt(self) -> None:
        """Called between the steps of the work. Raises `Cancelled`, or `RequestError` when its time is over."""
        if self._cancelled.is_set():
            raise Cancelled
        now = time.monotonic()
        if self.started_at is None and now > self._start_before:
            raise RequestError(
                "the request waited too long for its turn; try again later",
                status=429, kind="rate_limit_error", code="queue_timeout", retry_after=5,
            )  # fmt: skip
        if now > self._deadline:
            raise RequestError(
                "the request took too long; send less text, or try again when the server is less busy",
                status=504, kind="server_error", code="timeout",
            )  # fmt: skip

    @property
    def timings(self) -> Timings:
        """Complete when the last samples have been read."""
        # One that never began has said nothing, at whatever rate.
        report = self.report or Report(self.request.seed or 0, 1)
        now = time.monotonic()
        return Timings(
            request_id=self.request.request_id,
            seed=report.seed,
            queue=(self.started_at or now) - self.admitted_at,
            time_to_first_audio=(self.first_audio_at or now) - self.admitted_at,
            total=(self.ended_at or now) - self.admitted_at,
            audio=report.duration,
            rtf=report.rtf,
            retries=report.retries,
            stages=dict(report.stage_seconds),
            warnings=list(report.warnings),
        )


class InterruptibleModel:
    """The loaded model as one request sees it: every token it generates is a point at which the request can end."""

    def __init__(self, model: CosyVoiceModel, job: SpeechJob) -> None:
        self._model, self._job = model, job

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, *arguments: Any, **options: Any) -> Generator[int, None, None]:
        """See `CosyVoiceModel.generate`."""
        return self._watched(self._model.generate(*arguments, **options))

    def generate_arriving(self, *arguments: Any, **options: Any) -> Generator[int, None, None]:
        """See `CosyVoiceModel.generate_arriving`."""
        return self._watched(self._model.generate_arriving(*arguments, **options))

    def _watched(self, tokens: Generator[int, None, None]) -> Generator[int, None, None]:
        try:
            for token in tokens:
                self._job.interrupt()
                yield token
        finally:
            tokens.close()


def interruptible(model: CosyVoiceModel, job: SpeechJob) -> CosyVoiceModel:
    """`model` for the work of `job`."""
    return cast(CosyVoiceModel, InterruptibleModel(model, job))


def drop(jobs: Sequence[SpeechJob]) -> None:
    """Cancel all of `jobs`."""
    for job in jobs:
        job.cancel()
