from __future__ import annotations

import math

import pytest
import torch

from cosyvoice.errors import ConfigError
from cosyvoice.flow.embedding import CausalConvPositionEmbedding, InputEmbedding, sinusoidal_time


def test_time_code_is_sines_then_cosines() -> None:
    code = sinusoidal_time(torch.tensor([0.0, 0.5]), width=4)
    assert code[0].tolist() == [0, 0, 1, 1]
    slow = 500 / 10000
    expected = [math.sin(500), math.sin(slow), math.cos(500), math.cos(slow)]
    assert code[1].tolist() == pytest.approx(expected, abs=1e-4)


def test_conv_position_embedding_looks_60_frames_back_and_none_ahead() -> None:
    embedding = CausalConvPositionEmbedding(8, groups=4)
    x = torch.randn(1, 80, 8, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[:, 10] += 1
    different = (embedding(x) - embedding(changed)).abs().amax(dim=(0, 2)) > 0
    assert different.nonzero().flatten().min() == 10
    assert different.nonzero().flatten().max() == 70


def test_input_order_is_mel_prompt_encoder_speaker() -> None:
    embedding = InputEmbedding(2 + 2 + 3 + 1, 8, groups=2)
    generator = torch.Generator().manual_seed(1)
    x, cond, mu, spks = (torch.randn(s, generator=generator) for s in ((1, 4, 2), (1, 4, 2), (1, 4, 3), (1, 1)))
    seen = []
    embedding.proj.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    assert embedding(x, cond, mu, spks).shape == (1, 4, 8)
    assert torch.equal(seen[0], torch.cat([x, cond, mu, spks.expand(1, 4, 1)], dim=-1))


def test_a_width_that_the_groups_do_not_divide() -> None:
    with pytest.raises(ConfigError, match=r"dit\.dim is 36, which is no multiple of its 16 groups"):
        CausalConvPositionEmbedding(36, 16)
