from __future__ import annotations

import numpy as np
import pytest

from cosyvoice.engine.joining import Joining, PieceEdges, silence

RATE = 24000


def piece(head: float, sound: float, tail: float) -> np.ndarray:
    tone = 0.3 * np.ones(int(sound * RATE), np.float32)
    return np.concatenate([silence(head, RATE), tone, silence(tail, RATE)])


def through(samples: np.ndarray, sizes: list[int] | None = None) -> np.ndarray:
    edges, parts, start = PieceEdges(Joining(), RATE), [], 0
    for size in sizes or [len(samples)]:
        parts.append(edges.push(samples[start : start + size]))
        start += size
    return np.concatenate([*parts, edges.push(samples[start:]), edges.finish()])


def test_long_silence_at_the_edges_is_cut() -> None:
    joined = through(piece(1.0, 0.5, 2.0))
    assert len(joined) / RATE == pytest.approx(0.08 + 0.5 + 0.12, abs=1e-3)


def test_short_silence_stays() -> None:
    assert len(through(piece(0.05, 0.5, 0.1))) == int(0.65 * RATE)


def test_edges_fade() -> None:
    joined = through(piece(0.0, 0.5, 0.0))
    assert joined[0] == 0.0 and joined[-1] == 0.0
    assert np.abs(np.diff(joined)).max() < 0.3 / 90
    assert joined[100] == joined[-200] == np.float32(0.3)


def test_the_result_does_not_depend_on_chunks() -> None:
    random = np.random.default_rng(0)
    signal = piece(0.3, 0.2, 0.5)
    signal = np.concatenate([signal, piece(0.1, 0.3, 0.7)])
    signal += (0.002 * random.uniform(-1, 1, len(signal))).astype(np.float32)
    whole = through(signal)
    for _ in range(20):
        sizes = random.integers(1, 9000, 12).tolist()
        np.testing.assert_array_equal(through(signal, sizes), whole)


def test_silence_inside_a_piece_stays() -> None:
    signal = np.concatenate([piece(0, 0.2, 1.5), piece(0, 0.2, 0)])
    assert len(through(signal, [100, 4800, 10000, 20000])) == len(signal)


def test_a_piece_without_sound_passes() -> None:
    assert len(through(silence(0.4, RATE), [100, 100])) == int(0.4 * RATE)


def test_input_is_not_changed() -> None:
    signal = piece(0.0, 0.2, 0.0)
    before = signal.copy()
    through(signal)
    np.testing.assert_array_equal(signal, before)


def test_pauses_follow_punctuation() -> None:
    joining = Joining()
    assert joining.pause_after('He said "no."') == joining.pause_after("真的？") == joining.sentence_pause
    assert joining.pause_after("and then,") == joining.clause_pause
