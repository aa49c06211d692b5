from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cosyvoice.errors import GenerationError
from cosyvoice.native.flow_cache import ContextLimit, EvaluationCache, FlowContext, PromptCache

CONVOLUTIONS = (np.zeros((1, 4, 30), np.float32), np.zeros((1, 4, 30), np.float32))


def empty(limit: ContextLimit | None = None) -> FlowContext:
    nothing = np.zeros((1, 2, 0, 3), np.float32)
    return FlowContext([EvaluationCache(CONVOLUTIONS, (nothing, nothing))], limit or ContextLimit(None))


def add(context: FlowContext, *values: int) -> FlowContext:
    """A chunk of two frames for each of `values`."""
    for value in values:
        chunk = np.full((1, 2, 2, 3), value, np.float32)
        context.store(0, CONVOLUTIONS, [chunk, -chunk])
        context.advance(2)
    return context


def held(context: FlowContext) -> list[int]:
    keys, values = context.evaluations[0].blocks
    np.testing.assert_array_equal(values, -keys)
    return [int(value) for value in keys[0, 0, ::2, 0]]


def test_an_unbounded_context_holds_everything_in_order() -> None:
    context = add(empty(), 1, 2, 3)
    assert held(context) == [1, 2, 3] and context.frames == 6


def test_a_bounded_context_replaces_the_oldest_behind_the_pinned_chunks() -> None:
    context = add(empty(ContextLimit(8, pinned=2)), 1, 2, 3, 4)
    assert held(context) == [1, 2, 3, 4]
    assert held(add(context, 5)) == [1, 5, 3, 4]
    assert held(add(context, 6, 7, 8)) == [1, 8, 6, 7]


def test_limits_are_whole_chunks_and_leave_half_to_what_is_spoken() -> None:
    assert ContextLimit.of(None, 50, 400) == ContextLimit(None)
    assert ContextLimit.of(270, 50, 100) == ContextLimit(250, 100)
    assert ContextLimit.of(270, 50, 400) == ContextLimit(250, 100)
    assert ContextLimit.of(50, 50, 400) == ContextLimit(50, 0)


@pytest.mark.parametrize("limit", [ContextLimit(None), ContextLimit(4, pinned=2)])
def test_forks_do_not_change_what_they_share(limit: ContextLimit) -> None:
    prompt = add(empty(limit), 1, 2)
    first, second = prompt.fork(), prompt.fork()
    add(first, 3, 4)
    add(second, 5)
    assert held(prompt) == [1, 2] and prompt.frames == 4
    # Two frames of the prompt will be replaced where the context is limited.
    copied = 0 if limit.frames is None else 2
    convolutions = sum(array.nbytes for array in CONVOLUTIONS)
    assert prompt.fork().nbytes - convolutions == 2 * copied * 2 * 3 * 4
    assert held(second) == ([1, 2, 5] if limit.frames is None else [1, 5])
    assert held(first) == ([1, 2, 3, 4] if limit.frames is None else [1, 4])


def test_the_least_recently_used_prompts_are_dropped() -> None:
    size = add(empty(), 1).nbytes
    cache = PromptCache(2 * size)
    computed: list[bytes] = []

    def get(key: bytes) -> None:
        def compute() -> FlowContext:
            computed.append(key)
            return add(empty(), 1)

        cache.get(key, compute)

    for key in (b"a", b"b", b"a", b"c", b"a", b"b"):
        get(key)
    assert computed == [b"a", b"b", b"c", b"b"]
    assert cache.nbytes == 2 * size


def test_a_prompt_beyond_the_capacity_is_not_kept() -> None:
    cache = PromptCache(10)
    assert held(cache.get(b"a", lambda: add(empty(), 1))) == [1]
    assert cache.nbytes == 0


def test_threads_wait_for_one_computation() -> None:
    cache, started, go = PromptCache(10**6), threading.Event(), threading.Event()
    count = 0

    def compute() -> FlowContext:
        nonlocal count
        count += 1
        started.set()
        assert go.wait(10)
        return add(empty(), 1)

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(cache.get, b"a", compute) for _ in range(4)]
        assert started.wait(10)
        go.set()
        results = [job.result() for job in jobs]
    assert count == 1 and all(result is results[0] for result in results)


def test_a_failed_computation_is_tried_again() -> None:
    cache = PromptCache(10**6)

    def fail() -> FlowContext:
        raise GenerationError("no memory")

    with pytest.raises(GenerationError, match="no memory"):
        cache.get(b"a", fail)
    assert held(cache.get(b"a", lambda: add(empty(), 1))) == [1]


def test_prompts_of_a_speaker_are_forgotten_also_while_they_are_computed() -> None:
    cache = PromptCache(10**6)
    for key in (b"anna-1", b"anna-2", b"bert-1"):
        cache.get(key, lambda: add(empty(), 1))

    def compute() -> FlowContext:
        cache.forget(b"anna")
        return add(empty(), 1)

    cache.get(b"anna-3", compute)
    assert list(cache._kept) == [b"bert-1"] and not cache._unwanted
    cache.get(b"anna-3", lambda: add(empty(), 1))
    assert len(cache._kept) == 2
