import numpy as np

from cosyvoice.engine.conversion import cut_recording

RATE = 16000


def test_a_short_recording_stays_whole():
    samples = np.ones(5 * RATE, np.float32)
    assert [len(part) for part in cut_recording(samples)] == [5 * RATE]


def test_a_long_recording_is_cut_where_it_is_quiet():
    samples = np.random.default_rng(0).standard_normal(50 * RATE).astype(np.float32)
    samples[int(20.0 * RATE) : int(20.2 * RATE)] = 0.0
    parts = cut_recording(samples, longest=28.0)
    np.testing.assert_array_equal(np.concatenate(parts), samples)
    assert 20.0 * RATE <= len(parts[0]) <= 20.2 * RATE
    assert max(map(len, parts)) <= 28.0 * RATE
    assert min(map(len, parts[:-1])) >= 14.0 * RATE
