"""The source of the vocoder, chunk by chunk, against the reference on the whole utterance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cosyvoice.config.model import HiFTConfig
from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.hifigan import noise as reference_noise
from cosyvoice.hifigan.source import HarmonicSource as ReferenceSource
from cosyvoice.hifigan.spectrum import source_spectrum
from cosyvoice.native.noise import PeriodicNoise
from cosyvoice.native.source import HarmonicSource, SourceSpectrum

HOP = 480
FRAMES = 700
CUTS = [[FRAMES], [1, 2, 3, 50, 0, 644], [100] * 7]


def f0_of(frames: int) -> np.ndarray:
    """Sliding pitch with pauses, in Hz."""
    f0 = 180 + 90 * np.sin(np.arange(frames) / 9)
    return np.where(np.arange(frames) % 40 < 9, 3.0, f0)


def weights() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "m_source.l_linear.weight": generator.standard_normal((1, 9)).astype(np.float32),
        "m_source.l_linear.bias": np.array([0.1], np.float32),
    }


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("phase", ["frame", "sample"])
def test_the_signal_is_that_of_the_whole_utterance(phase: Any, cuts: list[int]) -> None:
    config = HiFTConfig(source_phase=phase)
    reference = ReferenceSource(24000, HOP, phase=phase)
    reference.load_state_dict({name.removeprefix("m_source."): torch.from_numpy(w) for name, w in weights().items()})
    f0 = f0_of(FRAMES)
    noise = reference_noise.PeriodicNoise(9, period=4096)(FRAMES * HOP)
    with torch.no_grad():
        expected = reference(torch.from_numpy(f0).float()[None], noise)[0, 0].numpy()
    source = HarmonicSource(weights(), config, PeriodicNoise(9, period=4096))
    state = source.init_state()
    pieces = [source.step(piece, state) for piece in np.split(f0, np.cumsum(cuts)[:-1])]
    assert [len(piece) for piece in pieces] == [count * HOP for count in cuts]
    # Phases of 14 s reach a million radians; the same float32 sum on both sides keeps them equal.
    np.testing.assert_allclose(np.concatenate(pieces), expected, atol=2e-6)


@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (96, 24), (20, 8)])
@pytest.mark.parametrize("cuts", [[1920], [480, 0, 960, 480], [64] * 30])
def test_the_transform_is_that_of_the_whole_signal(n_fft: int, hop: int, cuts: list[int]) -> None:
    signal = np.random.default_rng(1).standard_normal(1920).astype(np.float32)
    expected = source_spectrum(torch.from_numpy(signal)[None], n_fft, hop)[0].T.numpy()
    transform = SourceSpectrum(n_fft, hop)
    state = transform.init_state()
    assert transform.step(signal[:0], state).shape == (0, n_fft + 2)
    pieces = np.split(signal, np.cumsum(cuts)[:-1])
    frames = [transform.step(piece, state, index == len(pieces) - 1) for index, piece in enumerate(pieces)]
    np.testing.assert_allclose(np.concatenate(frames), expected, atol=1e-5)
    assert state.tail is not None and len(state.tail) < n_fft + hop


def test_weights_of_another_configuration_are_refused() -> None:
    with pytest.raises(ModelError, match="l_linear"):
        HarmonicSource(weights(), HiFTConfig(nb_harmonics=4), PeriodicNoise(5))
    with pytest.raises(ModelError, match="l_linear"):
        HarmonicSource({}, HiFTConfig(), PeriodicNoise(9))


def test_lines_between_frames_cannot_be_continued() -> None:
    config = HiFTConfig(source_phase="linear")
    with pytest.raises(ConfigError, match="source_phase is 'linear'"):
        HarmonicSource(weights(), config, PeriodicNoise(9))
