from __future__ import annotations

import numpy as np
import pytest
import torch

from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.stages import FlowInput, LLMInput, MelChunk, TokenChunk
from cosyvoice.errors import GenerationError, TextError, VoiceError
from cosyvoice.reference.stages import intra_op_threads

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 61, 70).tolist()


@pytest.fixture
def prompt() -> FlowInput:
    mel = RANDOM.standard_normal((20, 80)).astype(np.float32)
    return FlowInput(np.arange(10, dtype=np.int32), mel, np.ones(192, np.float32))


def test_steps_of_the_llm_equal_one_pass(tiny_tts: TTS) -> None:
    stage = tiny_tts.model.stages.llm
    inputs = LLMInput([5, 6, 7, 8], [9, 10], [1, 2, 3])
    state = stage.init_state(inputs)
    scores, state = stage.step(None, state)
    for token in (4, 5):
        scores, state = stage.step(token, state)
    whole, _ = stage.step(None, stage.init_state(LLMInput([5, 6, 7, 8], [9, 10], [1, 2, 3, 4, 5])))
    assert scores.shape == (65,)
    np.testing.assert_allclose(scores, whole, atol=1e-5)


def test_states_of_the_llm_are_apart_and_end(tiny_tts: TTS) -> None:
    stage = tiny_tts.model.stages.llm
    first, second = stage.init_state(LLMInput([5])), stage.init_state(LLMInput([5]))
    stage.step(None, first)
    stage.step(3, first)
    stage.step(None, second)
    one, two = stage.step(3, second)[0], stage.step(4, first)[0]
    assert not np.array_equal(one, two)
    stage.release(first)
    with pytest.raises(GenerationError, match="released"):
        stage.step(1, first)
    stage.step(1, second)


def test_ids_that_the_model_does_not_have(tiny_tts: TTS) -> None:
    with pytest.raises(TextError, match="outside of the model's 96 tokens"):
        tiny_tts.model.stages.llm.init_state(LLMInput([96]))
    with pytest.raises(VoiceError, match=r"0\.\.60"):
        tiny_tts.model.stages.llm.init_state(LLMInput([5], (), [61]))


def test_chunks_of_the_flow_equal_the_whole(tiny_tts: TTS, prompt: FlowInput) -> None:
    stage = tiny_tts.model.stages.flow
    whole, _ = stage.step(TokenChunk(TOKENS, True, True), stage.init_state(prompt))
    state = stage.init_state(prompt)
    parts = []
    for start, end in ((0, 43), (43, 70)):
        mel, state = stage.step(TokenChunk(TOKENS[start:end], end == 70, True), state)
        parts.append(mel)
    # 10 tokens of the prompt and 40 new ones fill two attention chunks of 25.
    assert [len(part) for part in parts] == [80, 60]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_full_attention_is_something_else(tiny_tts: TTS, prompt: FlowInput) -> None:
    stage = tiny_tts.model.stages.flow
    masked, _ = stage.step(TokenChunk(TOKENS, True, True), stage.init_state(prompt))
    full, _ = stage.step(TokenChunk(TOKENS, True, False), stage.init_state(prompt))
    assert masked.shape == full.shape == (140, 80)
    assert not np.allclose(masked, full, atol=1e-3)


def test_chunks_of_the_vocoder_equal_the_whole(tiny_tts: TTS) -> None:
    stage = tiny_tts.model.stages.vocoder
    mel = RANDOM.standard_normal((60, 80)).astype(np.float32)
    whole, _ = stage.step(MelChunk(mel, True), stage.init_state())
    state = stage.init_state()
    parts = []
    for start, end in ((0, 5), (5, 30), (30, 37), (37, 60)):
        samples, state = stage.step(MelChunk(mel[start:end], end == 60), state)
        parts.append(samples)
    assert [len(part) // 480 for part in parts] == [0, 22, 7, 31]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)


def test_the_prompt_may_be_empty(tiny_tts: TTS) -> None:
    stage = tiny_tts.model.stages.flow
    nothing = FlowInput(np.zeros(0, np.int32), np.zeros((0, 80), np.float32), np.ones(192, np.float32))
    mel, _ = stage.step(TokenChunk(TOKENS[:5], True, False), stage.init_state(nothing))
    assert mel.shape == (10, 80)


def test_threads_are_set_for_the_block_only() -> None:
    before = torch.get_num_threads()
    with intra_op_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError), intra_op_threads(before + 1):
        raise RuntimeError
    with intra_op_threads(None):
        assert torch.get_num_threads() == before
