"""How far a vocoder sees, and stretches that are computed side by side."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cosyvoice.config.model import HiFTConfig
from cosyvoice.native.vocoder_reach import context_frames, stretches


@pytest.mark.parametrize(
    ("begin", "end", "context", "threads"),
    [(0, 300, 13, 2), (7, 300, 13, 4), (5, 30, 13, 2), (0, 26, 13, 8), (3, 4, 0, 2)],
)
def test_stretches_follow_each_other_and_take_equally_long(begin: int, end: int, context: int, threads: int) -> None:
    found = stretches(begin, end, context, threads)
    assert len(found) == max(min(threads, (end - begin) // max(context, 1)), 1)
    assert (found[0][0], found[-1][1]) == (begin, end)
    assert all(before[1] == after[0] for before, after in pairwise(found))
    frames = [stop - start + (context if index else 0) for index, (start, stop) in enumerate(found)]
    assert max(frames) - min(frames) <= 2
    assert all(start - context > begin for start, _ in found[1:])


def test_a_causal_network_sees_twice_as_far_back() -> None:
    causal = context_frames(HiFTConfig())
    assert 20 < causal < 30
    assert causal > context_frames(HiFTConfig(causal=False))
