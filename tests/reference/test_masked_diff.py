from __future__ import annotations

import numpy as np
import pytest
import torch

from cosyvoice.engine.stages import FloatArray, FlowInput, TokenChunk
from cosyvoice.flow.causal_masked_diff import CausalMaskedDiffWithXvec
from cosyvoice.flow.masked_diff import MaskedDiffWithXvec
from cosyvoice.reference.masked_diff import TorchMaskedDiffStage
from cosyvoice.reference.stages import TorchFlowStage

TOKENS = [(7 * i + i * i) % 37 for i in range(41)]


def voice(tokens: int = 9, frames: int = 15) -> FlowInput:
    random = np.random.default_rng(3)
    mel = random.standard_normal((frames, 8)).astype(np.float32)
    return FlowInput(np.arange(tokens, dtype=np.int32), mel, random.standard_normal(12).astype(np.float32))


def speak(stage: TorchMaskedDiffStage | TorchFlowStage, ends: list[int], inputs: FlowInput) -> list[FloatArray]:
    state, parts, begin = stage.init_state(inputs), [], 0
    for end in ends:
        mel, state = stage.step(TokenChunk(TOKENS[begin:end], end == ends[-1], True), state)
        parts.append(mel)
        begin = end
    return parts


def test_one_chunk_is_one_call_of_the_network(masked_diff: MaskedDiffWithXvec) -> None:
    inputs = voice()
    expected, _ = masked_diff.inference(
        torch.tensor([TOKENS]),
        torch.from_numpy(inputs.prompt_token)[None],
        torch.from_numpy(inputs.prompt_mel)[None],
        torch.from_numpy(inputs.speaker_embedding)[None],
    )
    np.testing.assert_allclose(speak(TorchMaskedDiffStage(masked_diff), [41], inputs)[0], expected[0].T, atol=1e-6)


def test_chunks_have_the_frames_of_the_whole(masked_diff: MaskedDiffWithXvec) -> None:
    """Up to the rounding of each chunk to whole frames; the mel differs, as no chunk sees another."""
    stage = TorchMaskedDiffStage(masked_diff, threads=1)
    parts, again = (np.concatenate(speak(stage, [15, 30, 41], voice())) for _ in range(2))
    assert abs(len(parts) - len(speak(stage, [41], voice())[0])) <= 3
    np.testing.assert_array_equal(parts, again)


def test_noise_may_be_injected(masked_diff: MaskedDiffWithXvec) -> None:
    asked: list[tuple[int, int, int, int]] = []

    def noise(step: int, prompt_frames: int, first: int, frames: int) -> FloatArray:
        asked.append((step, prompt_frames, first, frames))
        return np.random.default_rng(step).standard_normal((prompt_frames + frames, 8)).astype(np.float32)

    injected = speak(TorchMaskedDiffStage(masked_diff, noise=noise, compat="released"), [20, 41], voice())
    assert asked == [(0, 15, 0, 34), (1, 15, 26, 44)]
    assert np.abs(injected[0] - speak(TorchMaskedDiffStage(masked_diff), [20, 41], voice())[0]).max() > 0.1


@pytest.mark.parametrize("ends", [[14, 24, 41], [9, 41]])
def test_chunks_of_the_second_generation_equal_the_whole(
    causal_masked_diff: CausalMaskedDiffWithXvec, ends: list[int]
) -> None:
    """9 tokens of the prompt and 3 of look-ahead: 14 and 24 tokens fill attention chunks of 5, as 9 do."""
    stage, inputs = TorchFlowStage(causal_masked_diff), voice(9, 18)
    parts = speak(stage, ends, inputs)
    np.testing.assert_allclose(np.concatenate(parts), speak(stage, [41], inputs)[0], atol=1e-4)
