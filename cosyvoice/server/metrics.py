"""What is counted: Prometheus metrics of one service, in a registry of its own.

Names begin with `cosyvoice_`; none has a label that a client can choose, so their number is bounded.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cosyvoice.engine.speech import Report
from cosyvoice.server.admission import Admission

_LATENCY = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
_RATIO = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0, 16.0)

OUTCOMES = ("ok", "refused", "rejected", "cancelled", "failed", "timeout")
"""`refused`: for want of capacity; `rejected`: cannot be done, the client's doing; `failed`: the server's."""


class Metrics:
    """Counts the requests of one service.

    Args:
        model: its name, the label `model_name`.
        admission: tells what runs and waits.
    """

    def __init__(self, model: str, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        self._requests = self._counter("requests", "Speech requests by outcome.", "outcome")
        self._audio = self._counter("audio_seconds", "Speech that was made, in seconds.")
        self._characters = self._counter("characters", "Characters of text that were spoken.")
        self._stages = self._counter("stage_seconds", "Seconds of work in each stage.", "stage")
        self._retries = self._counter("retries", "Attempts that the quality guard threw away.")
        self._cache = self._counter("voice_cache", "Voices asked for, by whether they were in memory.", "result")
        self._http = self._counter("http_responses", "HTTP responses by route and status.", "route", "status")
        self._queue_time = self._histogram("queue_seconds", "From admission to the first step.", _LATENCY)
        self._first_audio = self._histogram(
            "time_to_first_audio_seconds", "From admission to the first samples.", _LATENCY
        )
        self._latency = self._histogram("request_seconds", "From admission to the last samples.", _LATENCY)
        self._rtf = self._histogram("rtf", "Seconds of work a second of speech.", _RATIO)
        for name, help_text, read in (
            ("requests_running", "Requests that speak now.", lambda: admission.running),
            ("requests_waiting", "Requests in the queue.", lambda: admission.waiting),
            ("requests_paused", "Requests that wait for their text or their reader.", lambda: admission.paused),
            ("audio_seconds_expected", "Expected speech of all that run or wait.", lambda: admission.audio_seconds),
        ):
            gauge = Gauge(f"cosyvoice_{name}", help_text, ["model_name"], registry=self.registry)
            gauge.labels(model).set_function(read)
        for outcome in OUTCOMES:
            self._requests.labels(model, outcome)

    def request(self, outcome: str) -> None:
        """A request has ended, or was not let in."""
        self._requests.labels(self._model, outcome).inc()

    def started(self, waited: float) -> None:
        """A request began after `waited` seconds in the queue."""
        self._queue_time.labels(self._model).observe(waited)

    def first_audio(self, seconds: float) -> None:
        """The first samples of a request came `seconds` after its admission."""
        self._first_audio.labels(self._model).observe(seconds)

    def spoken(self, report: Report, characters: int, seconds: float) -> None:
        """A request was spoken to its end, `seconds` after its admission."""
        self._characters.labels(self._model).inc(characters)
        self._latency.labels(self._model).observe(seconds)
        if report.samples:
            self._rtf.labels(self._model).observe(report.rtf)

    def worked(self, report: Report) -> None:
        """What a request cost, complete or not."""
        self._audio.labels(self._model).inc(report.duration)
        self._retries.labels(self._model).inc(report.retries)
        for stage, seconds in report.stage_seconds.items():
            self._stages.labels(self._model, stage).inc(seconds)

    def voice(self, hit: bool) -> None:
        """A voice was needed, and was in memory or not."""
        self._cache.labels(self._model, "hit" if hit else "miss").inc()

    def response(self, route: str, status: int) -> None:
        """An HTTP response went out; `route` is the pattern, not the path."""
        self._http.labels(self._model, route, str(status)).inc()

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"cosyvoice_{name}", help_text, ["model_name", *labels], registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"cosyvoice_{name}", help_text, ["model_name"], buckets=buckets, registry=self.registry)
