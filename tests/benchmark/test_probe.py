"""Processes of their own."""

from __future__ import annotations

import sys

import pytest

from cosyvoice.benchmark.contenders import Contender
from cosyvoice.benchmark.probe import cold_start, measure_memory
from cosyvoice.errors import GenerationError


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_is_that_of_one_engine_alone(random_model):
    found = measure_memory(Contender("fp32", "native", random_model), 1, seconds=1.0, stream_seconds=5.0)
    assert 20 < found["loaded"] <= found["peak"] <= found["stream_peak"]
    # Without PyTorch, which this process has loaded and the other must not.
    assert found["peak"] < 220
    assert len(found["chunks"]) == 4


def test_a_cold_start_ends_with_the_first_chunk(speaking_model):
    cold_start(Contender("fp32", "native", speaking_model, "onnxruntime"), threads=1)


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(GenerationError, match=r"of .* failed .*ModelError"):
        cold_start(Contender("fp32", "native", tmp_path), threads=1)
    with pytest.raises(GenerationError, match=r"of .* failed .*ModelError"):
        measure_memory(Contender("fp32", "native", tmp_path), 1, 1.0, 0.0)
