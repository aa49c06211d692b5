"""Draws from an explicit generator equal those the global generator would make, and leave it alone."""

from __future__ import annotations

import numpy as np
import torch

from cosyvoice.llm.randomness import torch_multinomial


def test_equal_to_the_seeded_global_generator() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.random(n).astype(np.float32) for n in (3, 25, 6761) * 5]
    draw = torch_multinomial(torch.Generator().manual_seed(12))
    state = torch.random.get_rng_state()
    ours = [draw(w) for w in weights]
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(12)
        theirs = [int(torch.from_numpy(w).multinomial(1, replacement=True)) for w in weights]
    assert ours == theirs
