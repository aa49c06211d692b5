from pathlib import Path

import numpy as np
import pytest
import torch

from cosyvoice.text.letter_to_sound import LetterToSound, letter_ids
from cosyvoice.training.letter_to_sound import (
    Example,
    LetterToSoundConfig,
    LetterToSoundNet,
    edit_distance,
    is_held_out,
    train,
)

CHUNKS = ["", "B", "AE1", "T", "K S"]
CONFIG = LetterToSoundConfig(
    embedding=8, channels=16, blocks=2, chunk_embedding=4, hidden=16, dropout=0.0, epochs=60, batch_words=4
)
EXAMPLES = [
    Example(letter_ids(word), chunks)
    for word, chunks in [("bat", [1, 2, 3]), ("tab", [3, 2, 1]), ("tax", [3, 2, 4]), ("batt", [1, 2, 3, 0])]
]


def _saved(net: LetterToSoundNet, path: Path) -> LetterToSound:
    np.savez_compressed(path, **net.arrays())
    return LetterToSound(path)


def test_a_trained_network_says_its_words_in_numpy(tmp_path: Path) -> None:
    model = _saved(train(EXAMPLES, CHUNKS, CONFIG), tmp_path / "net.npz")
    assert model.pronounce("bat") == ["B", "AE1", "T"]
    assert model.pronounce("tax") == ["T", "AE1", "K", "S"]
    assert model.pronounce("batt") == ["B", "AE1", "T"]


def test_numpy_and_torch_agree(tmp_path: Path) -> None:
    net = LetterToSoundNet(CONFIG, CHUNKS).eval()
    model = _saved(net, tmp_path / "net.npz")
    ids = letter_ids("abtax")
    features = model.encode(ids)
    with torch.no_grad():
        np.testing.assert_allclose(features, net.encode(torch.tensor([ids]))[0].numpy(), atol=5e-3)
        logits = net(torch.tensor([ids]), torch.tensor([[2, 1, 3, 2, 4]]), torch.tensor([[0, 1, 1, 1, 2]]))
    expected = logits.log_softmax(-1)[0]
    np.testing.assert_allclose(model.readout(features[0], (5, 5), 0), expected[0].numpy(), atol=5e-3)
    np.testing.assert_allclose(model.readout(features[4], (3, 2), 2), expected[4].numpy(), atol=5e-3)


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(EXAMPLES, CHUNKS, LetterToSoundConfig(channels=8, blocks=1, epochs=1))
    assert torch.equal(torch.rand(1), expected)


def test_one_word_in_twenty_is_held_out() -> None:
    held_out = sum(is_held_out(f"word{index}") for index in range(4000))
    assert held_out == pytest.approx(200, abs=50)


@pytest.mark.parametrize(("first", "second", "edits"), [("kitten", "sitting", 3), ("", "ab", 2), ("ab", "ab", 0)])
def test_edit_distance(first: str, second: str, edits: int) -> None:
    assert edit_distance(first, second) == edits
