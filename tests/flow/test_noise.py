from __future__ import annotations

import torch

from cosyvoice.flow.noise import released_start_noise


def test_bit_equal_to_the_draw_of_a_process_seeded_with_0() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = torch.randn(1, 80, 15000)
    assert torch.equal(released_start_noise(), expected)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    released_start_noise(4, 10)
    assert torch.equal(torch.get_rng_state(), before)
