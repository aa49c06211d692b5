"""F0 in NumPy against the network in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cosyvoice.config.model import HiFTConfig
from cosyvoice.errors import ModelError
from cosyvoice.hifigan.f0_predictor import LOOK_RIGHT as REFERENCE_LOOK_RIGHT
from cosyvoice.hifigan.f0_predictor import CausalConvF0Predictor
from cosyvoice.hifigan.f0_predictor import ConvF0Predictor as SymmetricPredictor
from cosyvoice.native.f0_predictor import LOOK_RIGHT, ConvF0Predictor, F0Predictor

CONFIG = HiFTConfig(f0_channels=12, mel_mean=-5.0, mel_std=2.0)


@pytest.fixture(scope="module")
def network() -> CausalConvF0Predictor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CausalConvF0Predictor(80, 12)
        with torch.no_grad():
            network.classifier.weight.mul_(2000)
    return network.eval()


def weights_of(network: SymmetricPredictor) -> dict[str, np.ndarray]:
    return {f"f0_predictor.{name}": value.numpy() for name, value in network.state_dict().items()}


def mel_of(frames: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((frames, 80)).astype(np.float32) * 2 - 5


@pytest.mark.parametrize("cuts", [[30], [1] * 30, [2, 0, 11, 17, 0]])
def test_frames_are_those_of_the_whole_in_double_precision(network: CausalConvF0Predictor, cuts: list[int]) -> None:
    mel = mel_of(30)
    with torch.no_grad():
        normalised = (torch.from_numpy(mel).double() - CONFIG.mel_mean) / CONFIG.mel_std
        expected = network.predict_double(normalised.T[None])[0].numpy()
    predictor = F0Predictor(weights_of(network), CONFIG)
    state = predictor.init_state()
    pieces: list[np.ndarray] = []
    end = 0
    for index, count in enumerate(cuts):
        end += count
        done = sum(map(len, pieces))
        pieces.append(predictor.step(mel[done:end], state, index == len(cuts) - 1))
    assert expected.std() > 20  # Hz; a network that says nothing would prove nothing
    np.testing.assert_allclose(np.concatenate(pieces), expected, rtol=1e-10)


def test_a_folded_weight_is_taken_as_it_is(network: CausalConvF0Predictor) -> None:
    weights = weights_of(network)
    predictor = F0Predictor(weights, CONFIG)
    folded = dict(weights)
    for layer in (0, 2, 4, 6, 8):
        name = f"f0_predictor.condnet.{layer}"
        folded[f"{name}.weight"] = network.condnet[layer].weight.detach().numpy()
        del folded[f"{name}.parametrizations.weight.original0"]
        del folded[f"{name}.parametrizations.weight.original1"]
    plain = F0Predictor(folded, CONFIG)
    mel = mel_of(10)
    a, b = (each.step(mel, each.init_state(), True) for each in (predictor, plain))
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_the_look_ahead_is_that_of_the_reference() -> None:
    assert LOOK_RIGHT == REFERENCE_LOOK_RIGHT


def test_weights_that_do_not_fit_are_refused(network: CausalConvF0Predictor) -> None:
    weights = weights_of(network)
    with pytest.raises(ModelError, match="asks for"):
        F0Predictor(weights, HiFTConfig(f0_channels=16))
    del weights["f0_predictor.condnet.4.bias"]
    with pytest.raises(ModelError, match=r"condnet\.4\.bias"):
        F0Predictor(weights, CONFIG)


def test_the_symmetric_predictor() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SymmetricPredictor(80, 12)
    config = HiFTConfig(f0_channels=12, causal=False)
    mel = np.random.default_rng(0).standard_normal((9, 80)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(mel.T)[None])[0].numpy()
    np.testing.assert_allclose(ConvF0Predictor(weights_of(network), config).predict(mel), expected, atol=1e-6)
