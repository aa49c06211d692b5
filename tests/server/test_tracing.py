from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from cosyvoice.errors import MissingDependencyError
from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.tracing import Tracer

pytestmark = pytest.mark.anyio


async def test_a_span_tells_what_a_request_cost_and_not_what_it_said(make_service: Any) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    service = make_service(tracing=True).service
    service._tracer._tracer = provider.get_tracer("test")
    job = service.submit(SpeechRequest("secret words", request_id="r1"))
    samples = np.concatenate([part async for part in job])
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["cosyvoice.request_id"] == "r1"
    assert span.attributes["cosyvoice.audio_seconds"] == pytest.approx(len(samples) / 24000)
    assert "cosyvoice.stage.llm_seconds" in span.attributes
    assert "secret" not in span.to_json()


def test_without_the_packages_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    Tracer(False)
    with pytest.raises(MissingDependencyError, match=r"cosyvoice\[tracing\]"):
        Tracer(True)
