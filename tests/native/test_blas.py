"""NumPy's products on one thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import cosyvoice
from cosyvoice.engine.stages import MelChunk
from cosyvoice.native.blas import OneBlasThread, one_blas_thread


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """As on a machine of two cores, whatever the environment of the tests says."""
    if not _threads():
        pytest.skip("NumPy is built on another BLAS here")
    with threadpool_limits(2, user_api="blas"):
        yield


def _threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["internal_api"] == "openblas"}


def test_one_thread_inside_and_as_many_as_before_outside() -> None:
    with one_blas_thread:
        assert _threads() == {1}
        with one_blas_thread:
            assert _threads() == {1}
        assert _threads() == {1}
    assert _threads() == {2}


def test_what_is_raised_inside_sets_it_back() -> None:
    @one_blas_thread
    def fail() -> None:
        assert _threads() == {1}
        raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert _threads() == {2}


def test_the_last_one_out_sets_it_back() -> None:
    limit = OneBlasThread()
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with limit:
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=hold)
    with limit:
        other.start()
        assert inside.wait(10)
    assert _threads() == {1}
    leave.set()
    other.join()
    assert _threads() == {2}


def test_stages_compute_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = cosyvoice.load(threads=1).model.stages.vocoder
    seen = []
    predict = stage._f0.step
    monkeypatch.setattr(stage._f0, "step", lambda *args: seen.append(_threads()) or predict(*args))
    stage.step(MelChunk(np.zeros((40, 80), np.float32), finalize=True), stage.init_state())
    assert seen == [{1}]
    assert _threads() == {2}
