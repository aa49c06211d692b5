from __future__ import annotations

import numpy as np
import pytest
import torch

from cosyvoice.config.model import EncoderConfig, TransformerLMConfig
from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.stages import FlowInput, LLMInput, MelChunk, TextStream, TokenChunk
from cosyvoice.errors import ConfigError, GenerationError, TextError, VoiceError
from cosyvoice.llm.transformer_lm import TransformerLM
from cosyvoice.reference.stages import TorchLLMStage, intra_op_threads

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


def test_arriving_text_is_spoken_as_by_the_model(tiny_tts: TTS) -> None:
    stage = tiny_tts.model.stages.llm
    special = stage.model.special

    def first_speech_token(scores: np.ndarray, history: list[int]) -> int:
        return int(scores[: special.stop_ids.start].argmax())

    def speak(stream: TextStream) -> list[int]:
        return [*stream.push([5, 6, 7]), *stream.push([8, 9, 10, 11]), *stream.finish()]

    stream = stage.text_stream(LLMInput((), [9, 10], [1, 2, 3]), first_speech_token, limit=30)
    said = speak(stream)
    assert said == speak(stage.model.bistream(first_speech_token, [9, 10], [1, 2, 3], 30)) and len(said) == 30
    stream.close()
    stream.close()
    with pytest.raises(TextError, match="outside of the model's 96 tokens"):
        stage.text_stream(LLMInput(()), first_speech_token).push([96])


def test_the_first_generation_reads_the_speaker() -> None:
    small = {"attention_heads": 2, "linear_units": 24, "num_blocks": 1, "static_chunk_size": 1}
    encoder = EncoderConfig(input_size=8, output_size=8, **small)
    config = TransformerLMConfig(
        text_token_size=30, speech_token_size=20, speaker_embedding_dim=6, text_encoder=encoder, llm=encoder
    )
    torch.manual_seed(0)
    stage = TorchLLMStage(TransformerLM(config))

    def scores(speaker: np.ndarray | None) -> np.ndarray:
        return stage.step(None, stage.init_state(LLMInput([1, 2], speaker_embedding=speaker)))[0]

    one, other, none = scores(np.ones(6, np.float32)), scores(np.arange(6, dtype=np.float32)), scores(None)
    assert np.exp(one).sum() == pytest.approx(1, abs=1e-5)
    assert not np.allclose(one, other, atol=1e-4)
    assert not np.allclose(one, none, atol=1e-4)
    np.testing.assert_allclose(one, scores(np.full(6, 9, np.float32)), atol=1e-5)
    with pytest.raises(ConfigError, match="whole text at once"):
        stage.text_stream(LLMInput(()), lambda scores, history: 0)


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
