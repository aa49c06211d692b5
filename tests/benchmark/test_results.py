"""What is derived from raw values."""

from __future__ import annotations

import pytest

from cosyvoice.benchmark.harness import Spread
from cosyvoice.benchmark.measurements import DECODED_TOKENS
from cosyvoice.benchmark.results import Concurrency, Measurement, Memory, Results, Stream
from cosyvoice.errors import ConfigError

SECONDS = {"reference": [4.0, 6.0, 5.0], "int8": [2.0, 2.0, 5.0]}


def test_ratios_belong_to_rounds_and_values_to_the_unit():
    flow = Measurement.of("flow", SECONDS, "reference", audio=10.0)
    assert flow.ratios == {"int8": Spread(min=1.0, median=2.0, max=3.0)}
    assert flow.values["reference"] == Spread(min=0.4, median=0.5, max=0.6)
    assert Measurement.of("first_audio", SECONDS, "reference", 10.0).values["int8"].median == 2000.0


def test_tokens_a_second_are_higher_where_seconds_are_fewer():
    decode = Measurement.of("llm_decode", SECONDS, "reference", audio=10.0)
    assert decode.values["reference"] == Spread(min=DECODED_TOKENS / 6, median=DECODED_TOKENS / 5,
                                                max=DECODED_TOKENS / 4)  # fmt: skip
    assert decode.ratios["int8"].max == 3.0


def test_without_the_baseline_there_are_no_ratios():
    assert Measurement.of("flow", {"int8": [1.0]}, "reference", 1.0).ratios == {}


def test_an_unknown_quantity_is_refused():
    with pytest.raises(ConfigError, match="'mood' is no quantity"):
        Measurement.of("mood", SECONDS, "reference", 1.0)


def test_the_cost_of_a_chunk_is_the_least_of_all_rounds():
    stream = Stream.of([[9.0, 2.0, 2.0, 3.0], [8.0, 4.0, 1.0, 5.0]])
    assert stream.cost == [8.0, 2.0, 1.0, 3.0] and stream.growth == 1.5


def test_a_stream_of_one_chunk_is_refused():
    with pytest.raises(ConfigError, match="less than two chunks"):
        Stream.of([[1.0]])


def test_memory_grows_from_the_second_chunk_on():
    assert Memory(loaded=1, peak=2, chunks=[10.0, 20.0, 23.0], stream_peak=3).growth == 3.0
    assert Memory(loaded=1, peak=2, chunks=[], stream_peak=3).growth is None
    assert Memory(loaded=None, peak=None, chunks=[None, None], stream_peak=None).growth is None


def test_gain_is_formed_round_by_round():
    found = Concurrency.of(100, alone=[10.0, 40.0], together=[5.0, 10.0], difference=0.0)
    assert found.gain == Spread(min=2.0, median=3.0, max=4.0)
    assert found.one_at_a_time.max == 10.0 and found.together.max == 20.0


def test_json_is_read_back_as_it_was(results):
    assert Results.model_validate_json(results.model_dump_json()) == results
