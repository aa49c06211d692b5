"""Chunks that overlap: what comes out when, how the overlap is faded, and what goes on through the seam."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cosyvoice.config.model import HiFTConfig
from cosyvoice.engine.cross_fade import cross_fade
from cosyvoice.engine.joint_vocoder import GaussianDraws, JointVocoderStage
from cosyvoice.engine.stages import FloatArray, MelChunk
from cosyvoice.errors import ConfigError, GenerationError

HOP, JOINT, RATE = 480, 3, 24000
MEL = np.stack([np.random.default_rng(0).uniform(60, 300, 30), np.ones(30)], axis=1).astype(np.float32)


def config(**changes: Any) -> HiFTConfig:
    options: dict[str, Any] = {"causal": False, "in_channels": 2, "nb_harmonics": 1, "joint_frames": JOINT}
    return HiFTConfig(**(options | {"source_phase": "sample"} | changes))


class Echo:
    """The first channel of the mel is F0, and the samples are the source."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def predict_f0(self, mel: FloatArray) -> FloatArray:
        self.calls.append(len(mel))
        # What is seen of a frame depends on whether the chunk ends there.
        return np.append(mel[:-1, 0], mel[-1:, 0] * 1.5).astype(np.float32)

    def excite(self, f0: FloatArray, phases: FloatArray, noise: FloatArray) -> FloatArray:
        turned = np.cumsum(np.repeat(f0.astype(np.float64), HOP)) / RATE
        angles = 2 * np.pi * turned[:, None] * np.arange(1, 3) + phases
        return (np.sin(angles).sum(1) + 0.1 * noise.sum(1)).astype(np.float32)

    def decode(self, mel: FloatArray, source: FloatArray) -> FloatArray:
        assert len(source) == len(mel) * HOP
        return source.copy()


def speak(stage: JointVocoderStage, cuts: list[int], mel: FloatArray = MEL) -> list[FloatArray]:
    state, pieces, begin = stage.init_state(), [], 0
    for index, count in enumerate(cuts):
        chunk = MelChunk(mel[begin : begin + count], finalize=index == len(cuts) - 1)
        samples, state = stage.step(chunk, state)
        pieces.append(samples)
        begin += count
    return pieces


def test_frames_are_withheld_and_flushed() -> None:
    networks = Echo()
    pieces = speak(JointVocoderStage(networks, config()), [2, 1, 7, 1, 1, 5, 13])
    assert [len(piece) / HOP for piece in pieces] == [0, 0, 7, 0, 0, 7, 16]
    # A chunk costs its own frames and those of the overlap.
    assert networks.calls == [10, 3 + 7, 3 + 13]


@pytest.mark.parametrize("last", [0, 1, 2])
def test_the_end_may_be_short(last: int) -> None:
    pieces = speak(JointVocoderStage(Echo(), config()), [30 - last, last])
    assert sum(map(len, pieces)) == 30 * HOP


@pytest.mark.parametrize("compat", ["corrected", "released"])
def test_one_call_is_the_whole(compat: Any) -> None:
    draws = GaussianDraws(2)
    phases, noise = draws.phases(), draws.normal(30 * HOP)
    networks = Echo()
    whole = networks.excite(networks.predict_f0(MEL), phases, noise)
    (samples,) = speak(JointVocoderStage(networks, config(), compat), [30])
    np.testing.assert_array_equal(samples, whole)


@pytest.mark.parametrize("cuts", [[10, 20], [4, 3, 3, 20], [29, 1]])
def test_the_source_goes_through_the_seams(cuts: list[int]) -> None:
    pieces = speak(JointVocoderStage(Echo(), config()), cuts)
    # What each chunk saw of F0 stays, so the whole has the edges of the chunks in it.
    seen = MEL[:, 0].copy()
    edges = np.cumsum(cuts) - 1
    seen[edges] *= 1.5
    draws = GaussianDraws(2)
    whole = Echo().excite(seen, draws.phases(), draws.normal(30 * HOP))
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=2e-4)


def test_released_chunks_begin_anew_behind_the_overlap() -> None:
    first, second = speak(JointVocoderStage(Echo(), config(), "released"), [10, 20])
    draws, networks = GaussianDraws(2), Echo()
    one = networks.excite(networks.predict_f0(MEL[:10]), draws.phases(), draws.normal(10 * HOP))
    two = networks.excite(networks.predict_f0(MEL[7:]), draws.phases(), draws.normal(23 * HOP))
    overlap = JOINT * HOP
    np.testing.assert_array_equal(first, one[:-overlap])
    np.testing.assert_array_equal(second[overlap:], two[overlap:])
    # Both chunks have the same source in the overlap, which comes out by the sum of the window's halves louder.
    window = np.hamming(2 * overlap)
    np.testing.assert_allclose(second[:overlap], one[-overlap:] * (window[:overlap] + window[overlap:]), rtol=1e-5)


def test_weights_of_the_cross_fade() -> None:
    rise, fall = cross_fade(1000, "corrected")
    np.testing.assert_allclose(rise + fall, 1.0, atol=1e-6)
    assert np.all(np.diff(rise) >= 0)
    rise, fall = cross_fade(1000, "released")
    np.testing.assert_allclose(rise + fall, 1.08, atol=1e-2)


def test_phases_of_frames_begin_at_zero() -> None:
    draws = GaussianDraws(2)
    draws.phases()
    networks = Echo()
    whole = networks.excite(networks.predict_f0(MEL), np.zeros(2, np.float32), draws.normal(30 * HOP))
    (samples,) = speak(JointVocoderStage(networks, config(source_phase="linear")), [30])
    np.testing.assert_array_equal(samples, whole)


def test_requests_are_apart_and_repeat() -> None:
    stage = JointVocoderStage(Echo(), config())
    alone = speak(stage, [10, 20])
    first, second = stage.init_state(), stage.init_state()
    a, first = stage.step(MelChunk(MEL[:10], False), first)
    stage.step(MelChunk(MEL[::-1], False), second)
    b, first = stage.step(MelChunk(MEL[10:], True), first)
    np.testing.assert_array_equal(a, alone[0])
    np.testing.assert_array_equal(b, alone[1])


def test_no_overlap_at_all() -> None:
    pieces = speak(JointVocoderStage(Echo(), config(joint_frames=0)), [1, 9, 20])
    assert [len(piece) / HOP for piece in pieces] == [1, 9, 20]


def test_bad_input_is_refused() -> None:
    stage = JointVocoderStage(Echo(), config())
    with pytest.raises(GenerationError, match=r"\[frames, 2\].*transpose"):
        stage.step(MelChunk(MEL.T, True), stage.init_state())
    with pytest.raises(GenerationError, match="0 mel frames"):
        stage.step(MelChunk(MEL[:0], True), stage.init_state())
    state = stage.init_state()
    stage.step(MelChunk(MEL, True), state)
    with pytest.raises(GenerationError, match="has ended"):
        stage.step(MelChunk(MEL, True), state)
    broken = MEL.copy()
    broken[3] = np.nan
    with pytest.raises(GenerationError, match=r"vocoder.*not finite"):
        stage.step(MelChunk(broken, True), stage.init_state())
    with pytest.raises(ConfigError, match="compat"):
        JointVocoderStage(Echo(), config(), "upstream")  # type: ignore[arg-type]
