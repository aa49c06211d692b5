from __future__ import annotations

import pytest

from cosyvoice.engine.streaming import ChunkSchedule, StreamingConfig, unused_reference
from cosyvoice.errors import ConfigError


def ends(schedule: ChunkSchedule, count: int) -> list[int]:
    found = []
    for _ in range(count):
        found.append(schedule.needed)
        schedule.advance()
    return found


def test_hops_double_to_the_maximum() -> None:
    schedule = ChunkSchedule(StreamingConfig(), prompt_tokens=0, lookahead=3, attention_chunk=25)
    assert ends(schedule, 5) == [28, 78, 178, 278, 378]


def test_prompt_and_first_chunk_fill_attention_chunks() -> None:
    schedule = ChunkSchedule(StreamingConfig(), prompt_tokens=40, lookahead=3, attention_chunk=25)
    assert ends(schedule, 3) == [38, 88, 188]
    schedule = ChunkSchedule(StreamingConfig(), prompt_tokens=50, lookahead=3, attention_chunk=25)
    assert ends(schedule, 1) == [28]


def test_the_first_chunk_is_short_where_the_reference_leaves_room() -> None:
    schedule = ChunkSchedule(StreamingConfig(), prompt_tokens=63, lookahead=3, attention_chunk=25)
    assert ends(schedule, 4) == [12 + 3, 12 + 25 + 3, 12 + 75 + 3, 12 + 175 + 3]


@pytest.mark.parametrize("prompt_tokens", range(50, 110))
def test_a_reference_is_cut_so_that_it_leaves_room(prompt_tokens: int) -> None:
    for first in (1, 12, 25, 40):
        config = StreamingConfig(first=first)
        unused = unused_reference(config, prompt_tokens, 25)
        assert 0 <= unused < 25
        schedule = ChunkSchedule(config, prompt_tokens - unused, lookahead=3, attention_chunk=25)
        assert schedule.needed == min(first, 25) + 3


def test_a_short_reference_and_the_released_mode_leave_nothing_out() -> None:
    assert unused_reference(StreamingConfig(), 49, 25) == 0
    assert unused_reference(StreamingConfig(mode="released"), 97, 25) == 0


def test_schedules_do_not_share_their_hops() -> None:
    config = StreamingConfig()
    assert ends(ChunkSchedule(config, 0, 3, 25), 4) == ends(ChunkSchedule(config, 0, 3, 25), 4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (StreamingConfig(hop=20), "attention chunk of 25"),
        (StreamingConfig(hop=0), "use at least 1"),
        (StreamingConfig(first=0), "first is 0 tokens; use at least 1"),
        (StreamingConfig(max_hop=110), "attention chunk of 25"),
        (StreamingConfig(hop=50, max_hop=25), "cannot shrink"),
        (StreamingConfig(growth=0), "cannot shrink"),
        (StreamingConfig(mode="fast"), "unknown streaming mode 'fast'"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_cannot_work(config: StreamingConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.check(25)


def test_settings_that_work() -> None:
    StreamingConfig().check(25)
    StreamingConfig(hop=75, growth=1, max_hop=75).check(25)
    StreamingConfig(mode="released").check(20)


def test_the_released_first_chunk_fills_hops_and_the_consistent_one_attention_chunks() -> None:
    released = ChunkSchedule(StreamingConfig(mode="released"), prompt_tokens=30, lookahead=3, attention_chunk=20)
    assert ends(released, 1) == [25 + 20 + 3]
    consistent = ChunkSchedule(StreamingConfig(hop=20), prompt_tokens=30, lookahead=3, attention_chunk=20)
    assert ends(consistent, 1) == [20 + 10 + 3]
