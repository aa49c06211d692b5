from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cosyvoice.config.model import DiTConfig, FlowConfig
from cosyvoice.errors import ConfigError, GenerationError, ModelError, VoiceError
from cosyvoice.flow.batch import FlowBatch, TrainingDraws
from cosyvoice.flow.flow import CausalMaskedDiffWithDiT
from cosyvoice.flow.flow_matching import FlowMatchingDraws


def batch(lengths: tuple[int, ...] = (20, 13)) -> FlowBatch:
    generator = torch.Generator().manual_seed(11)
    size = max(lengths)
    return FlowBatch(
        token=torch.randint(0, 37, (len(lengths), size), generator=generator),
        token_len=torch.tensor(lengths),
        mel=torch.randn(len(lengths), 2 * size, 8, generator=generator),
        mel_len=2 * torch.tensor(lengths),
        speaker_embedding=torch.randn(len(lengths), 12, generator=generator),
    )


def voice(prompt_tokens: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(12)
    tokens = torch.randint(0, 37, (1, prompt_tokens), generator=generator)
    mel = torch.randn(1, 2 * prompt_tokens, 8, generator=generator)
    return tokens, mel, torch.randn(1, 12, generator=generator)


TOKENS = torch.arange(24).unsqueeze(0)


def test_only_the_new_frames_are_returned(flow: CausalMaskedDiffWithDiT) -> None:
    assert flow.inference(TOKENS, *voice()).shape == (1, 8, 48)
    assert flow.inference(TOKENS, *voice(), finalize=False).shape == (1, 8, 42)
    assert flow.inference(TOKENS, *voice(0)).shape == (1, 8, 48)


def test_equal_calls_give_equal_mel_whatever_the_global_generator(flow: CausalMaskedDiffWithDiT) -> None:
    first = flow.inference(TOKENS, *voice(), n_timesteps=3)
    before = torch.get_rng_state()
    torch.rand(5)
    assert torch.equal(flow.inference(TOKENS, *voice(), n_timesteps=3), first)
    torch.set_rng_state(before)
    other = torch.randn(1, 8, 60, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(flow.inference(TOKENS, *voice(), n_timesteps=3, noise=other), first, atol=1e-2)


def test_streamed_chunks_continue_each_other(flow: CausalMaskedDiffWithDiT) -> None:
    """12 prompt frames and chunks of 10: frames up to 8 and 28 behind the prompt end on a chunk."""
    whole = flow.inference(TOKENS, *voice(), streaming=True)
    for count, final in ((4, 8), (14, 28)):
        part = flow.inference(TOKENS[:, : count + 3], *voice(), streaming=True, finalize=False)
        assert part.shape[2] == final
        assert torch.allclose(part, whole[:, :, :final], atol=1e-4)


def test_equal_items_of_a_batch_do_not_depend_on_each_other(flow: CausalMaskedDiffWithDiT) -> None:
    tokens, mel, speaker = voice()
    other = (TOKENS * 5) % 37
    both = flow.inference(
        torch.cat([TOKENS, other]), tokens.expand(2, -1), mel.expand(2, -1, -1), speaker.expand(2, -1)
    )
    assert torch.allclose(both[1:], flow.inference(other, *voice()), atol=1e-4)


def test_the_speaker_embedding_is_normalised(flow: CausalMaskedDiffWithDiT) -> None:
    tokens, mel, speaker = voice()
    louder = flow.inference(TOKENS, tokens, mel, 3 * speaker, n_timesteps=1)
    assert torch.allclose(louder, flow.inference(TOKENS, tokens, mel, speaker, n_timesteps=1), atol=1e-5)


def test_padding_does_not_change_the_loss(flow: CausalMaskedDiffWithDiT) -> None:
    """The loss of a padded batch is the mean over its items, weighted with their frames."""
    both = batch()
    draws = replace(TrainingDraws.sample(both, torch.Generator().manual_seed(3)), streaming=False)
    singles = []
    for item, tokens in enumerate((20, 13)):
        rows, frames = slice(item, item + 1), slice(0, 2 * tokens)
        single = FlowBatch(
            both.token[rows, :tokens],
            both.token_len[rows],
            both.mel[rows, frames],
            both.mel_len[rows],
            both.speaker_embedding[rows],
        )
        matching = FlowMatchingDraws(
            draws.matching.t[rows], draws.matching.noise[rows, :, frames], draws.matching.condition[rows]
        )
        singles.append(flow(single, TrainingDraws(False, draws.prefix[rows], matching))["loss"] * tokens)
    assert torch.allclose(flow(both, draws)["loss"], sum(singles) / 33, rtol=1e-4)


def test_what_padding_holds_does_not_matter(flow: CausalMaskedDiffWithDiT) -> None:
    clean, draws = batch(), TrainingDraws.sample(batch(), torch.Generator().manual_seed(4))
    token, mel = clean.token.clone(), clean.mel.clone()
    token[1, 13:], mel[1, 26:] = -1, 100.0
    dirty = replace(clean, token=token, mel=mel)
    assert torch.allclose(flow(dirty, draws)["loss"], flow(clean, draws)["loss"], rtol=1e-5)


def test_a_prefix_becomes_prompt_mel(flow: CausalMaskedDiffWithDiT) -> None:
    conditions = flow.training_conditions(batch(), torch.tensor([5, 0]))
    mel = batch().mel.transpose(1, 2)
    assert torch.equal(conditions.cond[0, :, :5], mel[0, :, :5])
    assert not conditions.cond[0, :, 5:].any() and not conditions.cond[1].any()
    assert conditions.mask.sum(2).flatten().tolist() == [40, 26]


def test_training_lowers_the_loss_in_low_precision_too() -> None:
    dit = DiTConfig(dim=32, depth=1, heads=2, dim_head=16, mel_dim=8, mu_dim=8, spk_dim=8, out_channels=8)
    config = FlowConfig(vocab_size=37, speaker_embedding_dim=12, mel_dim=8, pre_lookahead_channels=8, dit=dit)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        flow = CausalMaskedDiffWithDiT(config)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    draws = TrainingDraws.sample(batch(), torch.Generator().manual_seed(5))
    losses = []
    for _ in range(15):
        with torch.autocast("cpu", torch.bfloat16):
            loss = flow(batch(), draws)["loss"]
        assert loss.dtype == torch.float32
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_bad_input_is_refused_with_its_cure(flow: CausalMaskedDiffWithDiT) -> None:
    tokens, mel, speaker = voice()
    with pytest.raises(GenerationError, match="3 speech tokens are too few"):
        flow.inference(TOKENS[:, :3], *voice(0), finalize=False)
    with pytest.raises(GenerationError, match=r"60 mel frames .* noise for 50"):
        flow.inference(TOKENS, tokens, mel, speaker, noise=torch.zeros(1, 8, 50))
    with pytest.raises(VoiceError, match="cut the reference mel to its tokens"):
        flow.inference(TOKENS, tokens, torch.zeros(1, 60, 8), speaker)
    with pytest.raises(ModelError, match=r"speech token 37 is outside 0\.\.36"):
        flow.inference(TOKENS + 14, tokens, mel, speaker)
    with pytest.raises(ModelError, match="cut or pad the mel"):
        flow.training_conditions(replace(batch(), mel=torch.zeros(2, 39, 8)), torch.zeros(2))
    with pytest.raises(ConfigError, match=r"dit\.mel_dim 80"):
        CausalMaskedDiffWithDiT(FlowConfig(mel_dim=64))


def test_the_start_noise_is_no_part_of_a_checkpoint(flow: CausalMaskedDiffWithDiT) -> None:
    assert flow.start_noise.shape == (1, 8, 15000)
    assert "start_noise" not in flow.state_dict()
