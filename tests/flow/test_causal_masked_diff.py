from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cosyvoice.config.model import CausalMaskedDiffConfig
from cosyvoice.errors import ConfigError, GenerationError
from cosyvoice.flow.batch import FlowBatch, TrainingDraws
from cosyvoice.flow.causal_masked_diff import CausalMaskedDiffWithXvec

TOKENS = torch.arange(24).unsqueeze(0)


def voice(tokens: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(12)
    mel = torch.randn(1, 2 * tokens, 8, generator=generator)
    return torch.arange(tokens).unsqueeze(0), mel, torch.randn(1, 12, generator=generator)


def batch() -> FlowBatch:
    generator = torch.Generator().manual_seed(11)
    token = torch.randint(0, 37, (2, 20), generator=generator)
    mel, lengths = torch.randn(2, 40, 8, generator=generator), torch.tensor([20, 13])
    return FlowBatch(token, lengths, mel, 2 * lengths, torch.randn(2, 12, generator=generator))


def test_streamed_chunks_continue_each_other(causal_masked_diff: CausalMaskedDiffWithXvec) -> None:
    """Of 6 prompt tokens and chunks of 5: frames up to 8 and 28 behind the prompt end on a chunk."""
    whole = causal_masked_diff.inference(TOKENS, *voice(), streaming=True)
    assert whole.shape == (1, 8, 48)
    for count, final in ((4, 8), (14, 28)):
        part = causal_masked_diff.inference(TOKENS[:, : count + 3], *voice(), streaming=True, finalize=False)
        assert part.shape[2] == final
        torch.testing.assert_close(part, whole[:, :, :final], atol=1e-4, rtol=1e-4)
    full = causal_masked_diff.inference(TOKENS, *voice())
    assert not torch.allclose(full, whole, atol=1e-3)


def test_mel_comes_out_in_its_own_scale(causal_masked_diff: CausalMaskedDiffWithXvec) -> None:
    """Mean -1 and deviation 2: without a step of the solver the start noise would come out."""
    flow = causal_masked_diff
    noise, conditions = torch.randn(1, 8, 60), flow.inference_conditions(TOKENS, *voice())
    sampled = flow.decoder.sample(noise, conditions)[:, :, 12:]
    torch.testing.assert_close(flow.inference(TOKENS, *voice(), noise=noise), 2 * sampled - 1)


@pytest.mark.parametrize("streaming", [False, True])
def test_what_padding_holds_does_not_matter(causal_masked_diff: CausalMaskedDiffWithXvec, streaming: bool) -> None:
    clean = batch()
    draws = replace(TrainingDraws.sample(clean, torch.Generator().manual_seed(4)), streaming=streaming)
    token, mel = clean.token.clone(), clean.mel.clone()
    token[1, 13:], mel[1, 26:] = -1, 100.0
    loss = causal_masked_diff(clean, draws)["loss"]
    assert torch.allclose(causal_masked_diff(replace(clean, token=token, mel=mel), draws)["loss"], loss, rtol=1e-5)


def test_training_streams_the_encoder_too(causal_masked_diff: CausalMaskedDiffWithXvec) -> None:
    prefix = torch.zeros(2)
    whole, streamed = (causal_masked_diff.training_conditions(batch(), prefix, mode).mu for mode in (False, True))
    assert (whole - streamed).abs().max() > 1e-3


def test_bad_input_is_refused_with_its_cure(causal_masked_diff: CausalMaskedDiffWithXvec) -> None:
    with pytest.raises(GenerationError, match="3 speech tokens are too few"):
        causal_masked_diff.inference(TOKENS[:, :3], *voice(0), finalize=False)
    with pytest.raises(ConfigError, match="do not fit a mel of 64"):
        CausalMaskedDiffWithXvec(CausalMaskedDiffConfig(mel_dim=64))
