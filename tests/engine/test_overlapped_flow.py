from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from cosyvoice.config.model import MaskedDiffConfig
from cosyvoice.engine.overlapped_flow import OverlappedFlowStage, PositionNoise
from cosyvoice.engine.stages import FloatArray, FlowInput, TokenChunk
from cosyvoice.errors import ConfigError, GenerationError

CONFIG = MaskedDiffConfig(mel_dim=2, overlap_tokens=5, cached_frames=8)
"""5 tokens are 8 frames."""
NOISE = np.arange(200, dtype=np.float32)[:, None].repeat(2, axis=1)
VOICE = FlowInput(np.zeros(3, np.int32), np.zeros((4, 2), np.float32), np.ones(3, np.float32))


class Recorder:
    """A flow whose mel is the number of its chunk; it notes what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], FloatArray, FloatArray | None]] = []
        self.fails = False

    def voice(self, inputs: FlowInput) -> str:
        return "voice"

    def sample(
        self, voice: Any, tokens: Sequence[int], noise: FloatArray, cache: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        if self.fails:
            raise GenerationError("failed")
        assert voice == "voice"
        self.calls.append((list(tokens), noise[:, 0], cache))
        mel = np.full((CONFIG.mel_frames(len(tokens)), 2), float(len(self.calls)), np.float32)
        return mel, np.full((12, 2, 2), float(len(self.calls)), np.float32)


def run(stage: OverlappedFlowStage, ends: Sequence[int] = (20, 35, 40)) -> list[FloatArray]:
    state, parts, begin = stage.init_state(VOICE), [], 0
    for end in ends:
        mel, state = stage.step(TokenChunk(range(begin, end), end == ends[-1], True), state)
        parts.append(mel)
        begin = end
    return parts


def make(flow: Recorder, **more: Any) -> OverlappedFlowStage:
    return OverlappedFlowStage(flow, CONFIG, PositionNoise(NOISE), **more)


def test_chunks_begin_with_the_last_tokens_of_the_one_before() -> None:
    flow = Recorder()
    parts = run(make(flow))
    assert [tokens for tokens, _, _ in flow.calls] == [
        list(range(20)), [*range(15, 35)], [*range(30, 40)],
    ]  # fmt: skip
    # 34, 34 and 17 frames, of which 8 overlap and are withheld until the end.
    assert [len(part) for part in parts] == [26, 26, 17]


def test_noise_belongs_to_the_position_of_a_frame() -> None:
    flow = Recorder()
    run(make(flow))
    noises = [noise.tolist() for _, noise, _ in flow.calls]
    begin = 4
    for noise, frames in zip(noises, (34, 34, 17), strict=True):
        assert noise == [0, 1, 2, 3, *range(begin, begin + frames)]
        begin += frames - 8


def test_each_chunk_gets_the_cache_of_the_one_before() -> None:
    flow = Recorder()
    run(make(flow))
    caches = [cache for _, _, cache in flow.calls]
    assert caches[0] is None
    assert [float(cache.max()) for cache in caches[1:] if cache is not None] == [1.0, 2.0]


def test_the_seam_goes_from_the_old_to_the_new() -> None:
    first, second, last = (part[:, 0] for part in run(make(Recorder())))
    assert (first == 1).all() and (second[8:] == 2).all() and (last[8:] == 3).all()
    for seam, low in ((second[:8], 1), (last[:8], 2)):
        assert (np.diff(seam) > 0).all() and seam[0] > low and seam[-1] < low + 1
    window = np.hamming(16)
    released = run(make(Recorder(), compat="released"))[1][:8, 0]
    np.testing.assert_allclose(released, 2 * window[:8] + window[8:], rtol=1e-6)


def test_a_single_chunk_is_the_whole() -> None:
    parts = run(make(Recorder()), ends=(40,))
    assert [part.shape for part in parts] == [(68, 2)]


def test_a_step_that_fails_can_be_repeated() -> None:
    flow = Recorder()
    stage = make(flow)
    state = stage.init_state(VOICE)
    flow.fails = True
    with pytest.raises(GenerationError, match="failed"):
        stage.step(TokenChunk(range(20), False, True), state)
    flow.fails = False
    mel, state = stage.step(TokenChunk(range(20), False, True), state)
    assert len(mel) == 26 and flow.calls[0][0] == list(range(20))


def test_bad_input_is_refused_with_its_cure() -> None:
    stage = make(Recorder())
    state = stage.init_state(VOICE)
    with pytest.raises(GenerationError, match="5 speech tokens are too few"):
        stage.step(TokenChunk(range(5), False, True), state)
    stage.step(TokenChunk(range(5), True, True), state)
    with pytest.raises(GenerationError, match="begin a new one"):
        stage.step(TokenChunk(range(5), True, True), state)
    with pytest.raises(GenerationError, match=r"210 mel frames .* noise for 200"):
        stage.step(TokenChunk(range(120), True, True), stage.init_state(VOICE))
    with pytest.raises(ConfigError, match="no compat 'old'"):
        make(Recorder(), compat="old")
