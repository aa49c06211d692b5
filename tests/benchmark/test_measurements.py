"""Times on a clock that only the stages move."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cosyvoice.benchmark.measurements import (
    DECODED_TOKENS,
    measure_concurrency,
    measure_flow,
    measure_llm,
    measure_stream,
    measure_vocoder,
    measure_whole,
)
from cosyvoice.benchmark.random_model import geometry
from cosyvoice.benchmark.workload import Workload
from cosyvoice.errors import GenerationError
from tests.benchmark.conftest import FLOW_SECONDS, READ_SECONDS, STEP_SECONDS, VOCODER_SECONDS

WORK = Workload(geometry("tiny"), seconds=2.0)
TOKENS, FRAMES = 50, 100


def test_prompt_and_decoding_are_apart(fake):
    parts = measure_llm(fake.tts, WORK, fake.clock)
    assert parts == {"llm_prefill": READ_SECONDS, "llm_decode": DECODED_TOKENS * STEP_SECONDS}
    assert fake.llm.released == 1


def test_flow_and_vocoder_see_the_whole_utterance(fake):
    assert measure_flow(fake.tts, WORK, fake.clock) == {"flow": TOKENS * FLOW_SECONDS}
    assert fake.flow.calls[0].finalize and not fake.flow.calls[0].chunk_masks
    assert measure_vocoder(fake.tts, WORK, fake.clock) == {"vocoder": FRAMES * VOCODER_SECONDS}


def test_the_whole_is_the_sum_of_its_stages(fake):
    parts = measure_whole(fake.tts, WORK, fake.clock)
    # The step that gives the stop id reads the last token.
    llm = READ_SECONDS + TOKENS * STEP_SECONDS
    assert parts["whole"] == llm + TOKENS * FLOW_SECONDS + FRAMES * VOCODER_SECONDS
    # The first chunk has 12 tokens, whatever the length of the prompt, and 3 of look-ahead.
    first = 12 + 3
    llm = READ_SECONDS + (first - 1) * STEP_SECONDS
    assert parts["first_audio"] == llm + first * FLOW_SECONDS + 2 * (first - 3) * VOCODER_SECONDS
    assert fake.llm.released == 2


def test_each_chunk_of_a_stream_is_a_part(fake):
    seen: list[int] = []
    work = Workload(geometry("tiny"), seconds=5.0)
    parts = measure_stream(fake.tts, work, fake.clock, after_chunk=lambda: seen.append(1))
    first = (13 + 25 + 3) * FLOW_SECONDS + 2 * (13 + 25) * VOCODER_SECONDS
    later = 25 * FLOW_SECONDS + 50 * VOCODER_SECONDS
    assert parts == {"chunk_1": first, "chunk_2": later, "chunk_3": later, "chunk_4": later}
    assert len(seen) == 4
    assert all(call.chunk_masks and not call.finalize for call in fake.flow.calls)


def test_requests_decode_one_at_a_time_and_together(fake):
    parts = measure_concurrency(fake.tts, WORK, requests=3, tokens=4, clock=fake.clock)
    assert parts == {"one_at_a_time": 12 * STEP_SECONDS, "together": 12 * STEP_SECONDS, "difference": 0.0}
    assert fake.llm.released == 6


def test_a_failing_request_does_not_leave_the_others_waiting(fake, monkeypatch):
    step, calls, lock = fake.llm.step, [0], threading.Lock()

    def failing(token, state):
        with lock:
            calls[0] += token is None
            # The first two prompts are read one at a time, the fourth is the second of those together.
            if token is None and calls[0] == 4:
                raise GenerationError("out of memory")
        return step(token, state)

    monkeypatch.setattr(fake.llm, "step", failing)
    with pytest.raises(GenerationError, match="out of memory"):
        measure_concurrency(fake.tts, WORK, requests=2, tokens=2, clock=fake.clock)


def test_the_native_engine_runs_every_measurement(native):
    work = Workload(native.model.config, seconds=1.0)
    parts = {**measure_llm(native, work), **measure_flow(native, work), **measure_vocoder(native, work)}
    parts |= measure_whole(native, work) | measure_stream(native, Workload(native.model.config, seconds=4.0))
    assert all(seconds > 0 for seconds in parts.values()) and "chunk_3" in parts
    together = measure_concurrency(native, work, requests=2, tokens=3)
    assert together["difference"] < 1e-4 and np.isfinite(together["together"])
