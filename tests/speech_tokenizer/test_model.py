from __future__ import annotations

import pytest
import torch

from cosyvoice.config.model import SpeechTokenizerConfig
from cosyvoice.speech_tokenizer.model import SpeechTokenizer

CONFIG = SpeechTokenizerConfig(channels=24, encoder_blocks=3, decoder_blocks=2, phones=11, mel_bins=20)


@pytest.fixture
def model() -> SpeechTokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = SpeechTokenizer(CONFIG).eval()
        with torch.no_grad():
            network.project_in.weight.mul_(4)
        return network


def _feats(frames: int, seed: int = 2, items: int = 1) -> torch.Tensor:
    return torch.randn(items, CONFIG.n_mels, frames, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 98, 99, 100, 101])
def test_a_token_every_four_frames(model: SpeechTokenizer, frames: int) -> None:
    ids = model.encode(_feats(frames), torch.tensor([frames]))
    assert ids.shape == (1, -(-frames // 4))
    assert model.token_lengths(torch.tensor([frames])).tolist() == [ids.shape[1]]
    assert int(ids.min()) >= 0
    assert int(ids.max()) < CONFIG.fsq_levels**CONFIG.fsq_channels


def test_training_outputs(model: SpeechTokenizer) -> None:
    out = model(_feats(101, items=2), torch.tensor([101, 60]), torch.randn(2, 40))
    assert out.codes.shape == (2, 26, 6)
    assert out.ctc_logits.shape == (2, 52, 12)
    assert out.phone_logits.shape == (2, 52, 11)
    assert out.prosody.shape == (2, 52, 3)
    assert out.mel.shape == (2, 52, 20)


def test_padding_changes_nothing(model: SpeechTokenizer) -> None:
    lengths = [37, 80, 62, 1]
    items = [_feats(n, seed) for seed, n in enumerate(lengths)]
    # What lies behind an item's end is arbitrary, not zero.
    batch = _feats(80, 9, len(lengths)) * 5
    for i, item in enumerate(items):
        batch[i, :, : lengths[i]] = item[0]
    together = model.latent(batch, torch.tensor(lengths))
    ids = model.encode(batch, torch.tensor(lengths))
    recognised = model.recognise(batch, torch.tensor(lengths))
    for i, item in enumerate(items):
        count = -(-lengths[i] // 4)
        length = torch.tensor([lengths[i]])
        torch.testing.assert_close(together[i, :count], model.latent(item, length)[0], atol=1e-5, rtol=1e-5)
        assert ids[i, :count].tolist() == model.encode(item, length)[0].tolist()
        assert recognised[i] == model.recognise(item, length)[0]


def test_mel_alone_sees_the_voice(model: SpeechTokenizer) -> None:
    feats, length = _feats(40), torch.tensor([40])
    one, other = model(feats, length, torch.zeros(1, 40)), model(feats, length, torch.ones(1, 40))
    assert torch.equal(one.ctc_logits, other.ctc_logits)
    assert torch.equal(one.prosody, other.prosody)
    assert not torch.allclose(one.mel, other.mel)


def test_gradient_reaches_the_encoder_through_the_rounding(model: SpeechTokenizer) -> None:
    out = model(_feats(64), torch.tensor([64]), torch.zeros(1, 40))
    out.ctc_logits.square().mean().backward()
    for module in (*model.stem, *model.encoder, model.project_in):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) > 0, name


def test_recognise_removes_repetitions_and_blanks(model: SpeechTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = torch.tensor([[0, 3, 3, 0, 3, 5, 5, 5, 0, 0, 2, 7], [4, 4, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9]])
    logits = torch.nn.functional.one_hot(path, CONFIG.phones + 1).float()
    monkeypatch.setattr(model.ctc_head, "forward", lambda hidden: logits)
    # 24 frames are 6 tokens, 12 labels; 8 frames are 2 tokens, 4 labels.
    assert model.recognise(_feats(24, items=2), torch.tensor([24, 8])) == [[3, 3, 5, 2, 7], [4, 1]]


def test_batches_of_one_configuration_are_independent_of_mode_without_dropout(model: SpeechTokenizer) -> None:
    feats, length = _feats(50), torch.tensor([50])
    assert torch.equal(model.train().encode(feats, length), model.eval().encode(feats, length))
