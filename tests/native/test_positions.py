from __future__ import annotations

import numpy as np
import torch

from cosyvoice.native.positions import Sinusoids
from cosyvoice.transformer.positions import sinusoids


def test_queries_and_keys_meet_in_the_sinusoid_of_their_distance() -> None:
    """For any weights of the sinusoids: rotated by the position of the query, they meet the key."""
    weights = np.random.default_rng(0).standard_normal(12)
    for query, key in ((0, 0), (7, 3), (3, 7), (1500, 1490)):
        cos, sin, _ = (part[0].astype(np.float64) for part in Sinusoids(12)(query, query + 1))
        table = Sinusoids(12)(key, key + 1)[2][0].astype(np.float64)
        even, odd = weights[0::2], weights[1::2]
        rotated = np.stack([even * cos - odd * sin, odd * cos + even * sin], axis=1).ravel()
        distance = sinusoids(torch.tensor([query - key]), 12)[0].double().numpy()
        np.testing.assert_allclose(rotated @ table, weights @ distance, atol=1e-5)


def test_a_run_is_a_part_of_the_whole() -> None:
    whole, run = Sinusoids(8)(0, 20), Sinusoids(8)(5, 9)
    for a, b in zip(whole, run, strict=True):
        np.testing.assert_array_equal(a[5:9], b)
