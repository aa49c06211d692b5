from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cosyvoice.config.model import SpeakerEncoderConfig
from cosyvoice.speaker_encoder.model import AngularMargin, SpeakerEncoder

CONFIG = SpeakerEncoderConfig(n_mels=20, channels=12, embedding_dim=16)


@pytest.fixture
def encoder() -> SpeakerEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return SpeakerEncoder(CONFIG).eval()


def _fbank(items: int, frames: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(items, frames, CONFIG.n_mels, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frames", [15, 16, 200])
def test_one_embedding_whatever_the_length(encoder: SpeakerEncoder, frames: int) -> None:
    assert encoder(_fbank(3, frames)).shape == (3, 16)


def test_default_embedding_has_192_values() -> None:
    assert SpeakerEncoder(SpeakerEncoderConfig()).eval()(torch.zeros(1, 20, 80)).shape == (1, 192)


def test_items_of_a_batch_are_independent_in_use(encoder: SpeakerEncoder) -> None:
    batch = _fbank(3, 60)
    alone = torch.cat([encoder(item[None]) for item in batch])
    torch.testing.assert_close(encoder(batch), alone, atol=1e-6, rtol=1e-5)


def test_constant_features_give_finite_gradients(encoder: SpeakerEncoder) -> None:
    # The deviation over time is zero here, where a bare square root has no gradient.
    fbank = torch.zeros(2, 30, CONFIG.n_mels, requires_grad=True)
    encoder(fbank).sum().backward()
    assert fbank.grad is not None
    assert bool(torch.isfinite(fbank.grad).all())


def test_margin_costs_the_right_speaker_and_spares_the_others() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        head = AngularMargin(8, 5, scale=30.0, margin=0.2)
    embedding, speaker = torch.randn(4, 8, generator=torch.Generator().manual_seed(4)), torch.tensor([0, 1, 2, 4])
    loss, cosine = head(embedding, speaker)
    expected = F.normalize(embedding) @ F.normalize(head.weight).T
    assert cosine.shape == (4, 5)
    torch.testing.assert_close(cosine, expected, atol=1e-5, rtol=1e-5)
    plain = F.cross_entropy(30.0 * expected, speaker)
    assert bool(loss > plain)
    logits = expected.clone()
    for i, s in enumerate(speaker.tolist()):
        logits[i, s] = torch.cos(torch.acos(expected[i, s]) + 0.2)
    torch.testing.assert_close(loss, F.cross_entropy(30.0 * logits, speaker), atol=1e-4, rtol=1e-4)


def test_training_brings_speakers_apart() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        encoder, head = SpeakerEncoder(CONFIG), AngularMargin(16, 3)
    centres = torch.randn(3, 1, CONFIG.n_mels, generator=torch.Generator().manual_seed(6)) * 3
    optimiser = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-2)
    speaker = torch.arange(3).repeat(4)
    for step in range(25):
        batch = centres[speaker] + _fbank(12, 30, 10 + step)
        loss, _ = head(encoder(batch), speaker)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    fresh = F.normalize(encoder.eval()(centres[speaker] + _fbank(12, 45, 99)))
    alike = fresh @ fresh.T
    same = speaker[:, None] == speaker[None]
    assert float(alike[same].min()) > float(alike[~same].max())
