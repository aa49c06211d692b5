"""OpenTelemetry spans of requests, where they are asked for; without the packages nothing of it is imported.

Attributes follow the `gen_ai` conventions and hold neither text nor audio.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cosyvoice.errors import MissingDependencyError
from cosyvoice.server.job import SpeechJob


class Tracer:
    """Spans around the work of requests; does nothing unless `enabled`.

    Raises `MissingDependencyError` where it is enabled and OpenTelemetry is not installed.
    """

    def __init__(self, enabled: bool) -> None:
        self._tracer: Any = None
        if enabled:
            try:
                from opentelemetry import trace
            except ImportError:
                raise MissingDependencyError(
                    "tracing needs OpenTelemetry, which is not installed; install it with: "
                    "pip install 'cosyvoice[tracing]'"
                ) from None
            self._tracer = trace.get_tracer("cosyvoice.server")

    @contextmanager
    def request(self, job: SpeechJob) -> Iterator[None]:
        """A span from the first step of `job` to its last."""
        if self._tracer is None:
            yield
            return
        with self._tracer.start_as_current_span("text_to_speech") as span:
            span.set_attribute("gen_ai.operation.name", "text_to_speech")
            span.set_attribute("cosyvoice.request_id", job.request.request_id)
            try:
                yield
            finally:
                timings = job.timings
                span.set_attribute("gen_ai.server.time_to_first_token", timings.time_to_first_audio)
                span.set_attribute("cosyvoice.audio_seconds", timings.audio)
                span.set_attribute("cosyvoice.rtf", timings.rtf)
                for stage, seconds in timings.stages.items():
                    span.set_attribute(f"cosyvoice.stage.{stage}_seconds", seconds)
