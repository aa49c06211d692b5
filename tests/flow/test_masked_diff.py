from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cosyvoice.errors import GenerationError, ModelError, VoiceError
from cosyvoice.flow.batch import FlowBatch, TrainingDraws
from cosyvoice.flow.masked_diff import MaskedDiffWithXvec

TOKENS = torch.arange(24).unsqueeze(0)


def voice(tokens: int = 6, frames: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(12)
    mel = torch.randn(1, frames, 8, generator=generator)
    return torch.arange(tokens).unsqueeze(0), mel, torch.randn(1, 12, generator=generator)


def test_frames_follow_the_rates(masked_diff: MaskedDiffWithXvec) -> None:
    """24 tokens at 50 Hz are 41.3 frames of 256 samples at 22050 Hz."""
    mel, cache = masked_diff.inference(TOKENS, *voice())
    assert mel.shape == (1, 8, 41) and cache.shape == (1, 8, 11 + 8, 2)
    mel, cache = masked_diff.inference(TOKENS, *voice(0, 0))
    assert mel.shape == (1, 8, 41) and cache.shape == (1, 8, 8, 2)


def test_the_cache_is_taken_over(masked_diff: MaskedDiffWithXvec) -> None:
    """Start noise and encoder output of the prompt and of the last frames, as the estimator gets them."""
    seen: list[tuple[Tensor, Tensor]] = []
    hook = masked_diff.decoder.estimator.register_forward_hook(lambda _, given, __: seen.append((given[0], given[2])))
    try:
        _, cache = masked_diff.inference(TOKENS, *voice(), n_timesteps=1)
        _, following = masked_diff.inference(TOKENS + 9, *voice(), cache=cache, n_timesteps=1)
    finally:
        hook.remove()
    (first_x, first_mu), (next_x, next_mu) = seen
    kept = [*range(11), *range(-8, 0)]
    for channel, (first, second) in enumerate(((first_x, next_x), (first_mu, next_mu))):
        torch.testing.assert_close(cache[..., channel], first[:1, :, kept])
        torch.testing.assert_close(second[:1, :, :19], cache[..., channel])
    torch.testing.assert_close(following[:, :, :11], cache[:, :, :11])


def test_equal_calls_give_equal_mel(masked_diff: MaskedDiffWithXvec) -> None:
    first, cache = masked_diff.inference(TOKENS, *voice())
    kept = cache.clone()
    masked_diff.inference(TOKENS, *voice(), cache=cache)
    assert torch.equal(cache, kept)
    assert torch.equal(masked_diff.inference(TOKENS, *voice())[0], first)
    other, _ = masked_diff.inference(TOKENS, *voice(), noise=torch.randn(1, 8, 60))
    assert not torch.allclose(other, first, atol=1e-2)


def test_training_takes_mel_of_any_length(masked_diff: MaskedDiffWithXvec) -> None:
    generator = torch.Generator().manual_seed(11)
    batch = FlowBatch(
        torch.randint(0, 37, (2, 20), generator=generator), torch.tensor([20, 13]),
        torch.randn(2, 35, 8, generator=generator), torch.tensor([35, 22]), torch.randn(2, 12, generator=generator),
    )  # fmt: skip
    draws = TrainingDraws.sample(batch, generator)
    conditions = masked_diff.training_conditions(batch, torch.tensor([4, 0]))
    assert conditions.mu.shape == (2, 8, 35) and conditions.mask.sum(2).flatten().tolist() == [35, 22]
    # The prompt mel is shown in the scale of the networks: mean -1, deviation 2.
    torch.testing.assert_close(conditions.cond[0, :, :4].T, (batch.mel[0, :4] + 1) / 2)
    loss = masked_diff(batch, draws)["loss"]
    assert torch.equal(masked_diff(batch, replace(draws, streaming=not draws.streaming))["loss"], loss)


def test_bad_input_is_refused_with_its_cure(masked_diff: MaskedDiffWithXvec) -> None:
    with pytest.raises(GenerationError, match="no speech token"):
        masked_diff.inference(TOKENS[:, :0], *voice())
    with pytest.raises(GenerationError, match=r"chunk of 6 mel frames cannot continue 8 .* last 5 tokens"):
        masked_diff.inference(TOKENS[:, :4], *voice(), cache=torch.zeros(1, 8, 19, 2))
    with pytest.raises(GenerationError, match=r"52 mel frames .* noise for 50"):
        masked_diff.inference(TOKENS, *voice(), noise=torch.zeros(1, 8, 50))
    with pytest.raises(VoiceError, match="6 speech tokens and 0 mel frames"):
        masked_diff.inference(TOKENS, *voice(6, 0))
    with pytest.raises(ModelError, match=r"speech token 37 is outside 0\.\.36"):
        masked_diff.inference(TOKENS + 14, *voice())
