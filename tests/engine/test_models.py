from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cosyvoice.config.model import TransformerLMConfig
from cosyvoice.engine.models import CosyVoice2Model, CosyVoice3Model, CosyVoiceModel
from cosyvoice.errors import ConfigError, VoiceError
from cosyvoice.voice.voice import Voice


@pytest.fixture
def voice() -> Voice:
    return Voice(
        "joe", np.arange(30), np.zeros((60, 80), np.float32), np.ones(192, np.float32), "said by joe", model="fake"
    )


def test_generations_build_on_each_other() -> None:
    assert CosyVoice3Model.__mro__[1:3] == (CosyVoice2Model, CosyVoiceModel)


def test_stop_ids_of_the_generations(make_fake: Any) -> None:
    model = make_fake([1]).model
    assert model.stop_ids == range(1000, 1004)
    first = model.config.model_copy(update={"llm": TransformerLMConfig(speech_token_size=1000)})
    assert CosyVoiceModel(first, model.stages).stop_ids == range(1000, 1001)


def test_zero_shot_continues_the_reference(make_fake: Any, voice: Voice) -> None:
    prompt = make_fake([1]).model.prompt(voice)
    assert list(prompt.text) == [100, 101, 102]
    assert list(prompt.speech_token) == list(range(30))
    assert prompt.seconds_per_phone == pytest.approx(30 / 25 / 12)
    assert prompt.flow.prompt_mel.dtype == np.float32


def test_without_a_transcript_the_reference_conditions_the_flow_only(
    make_fake: Any, make_voice: Callable[..., Voice]
) -> None:
    prompt = make_fake([1]).model.prompt(make_voice("joe", model=""))
    assert (list(prompt.text), list(prompt.speech_token), prompt.seconds_per_phone) == ([], [], None)
    assert len(prompt.flow.prompt_token) == 40


def test_models_with_a_mark_complete_the_prompt(make_fake: Any) -> None:
    model = make_fake([1], end_of_prompt_id=150).model
    assert model.transcript_text("Hi.") == "You are a helpful assistant.<|endofprompt|>Hi."
    assert model.transcript_text("So.<|endofprompt|>Hi.") == "So.<|endofprompt|>Hi."
    assert model.instruction_text("Whisper.") == "You are a helpful assistant. Whisper.<|endofprompt|>"
    assert model.instruction_text("Whisper.<|endofprompt|>") == "Whisper.<|endofprompt|>"


def test_instructions_leave_the_reference_tokens_out(make_fake: Any, voice: Voice) -> None:
    prompt = make_fake([1], end_of_prompt_id=150).model.prompt(voice, "Whisper.")
    assert len(prompt.text) == 6
    assert list(prompt.speech_token) == []
    assert len(prompt.flow.prompt_token) == 30


def test_a_model_without_the_mark_takes_no_instruction(make_fake: Any, voice: Voice) -> None:
    model = make_fake([1]).model
    assert model.transcript_text("Hi.") == "Hi."
    with pytest.raises(ConfigError, match="follows no instructions"):
        model.prompt(voice, "Whisper.")


def test_cross_lingual_text_carries_the_mark(make_fake: Any, make_voice: Callable[..., Voice]) -> None:
    prompt = make_fake([1], end_of_prompt_id=150).model.prompt(make_voice("joe", model=""))
    assert len(prompt.text) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"speech_token": np.full(30, 1000)},
        {"speech_token": np.full(30, -1)},
        {"mel": np.zeros((60, 40), np.float32)},
        {"speaker_embedding": np.ones(100, np.float32)},
    ],
)
def test_foreign_voices_are_refused(make_fake: Any, voice: Voice, changes: dict[str, Any]) -> None:
    import dataclasses

    with pytest.raises(VoiceError, match="clone it again"):
        make_fake([1]).model.prompt(dataclasses.replace(voice, **changes))


def test_reference_tokens_and_mel_are_aligned(make_fake: Any) -> None:
    model = make_fake([1]).model
    samples = np.random.default_rng(0).standard_normal(33000).astype(np.float32)
    features = model.encode_reference(samples, 24000)
    # 33000 samples at 24 kHz: 68 mel frames and, at 16 kHz, 34 tokens of 640 samples.
    assert (features.mel.shape, features.speech_token.shape) == ((68, 80), (34,))
    tokens, mel = model.align(np.arange(40), np.zeros((69, 80), np.float32))
    assert (len(tokens), len(mel)) == (34, 68)
    tokens, mel = model.align(np.arange(30), np.zeros((69, 80), np.float32))
    assert (len(tokens), len(mel)) == (30, 60)


def test_lengths_follow_the_text_and_the_limit(make_fake: Any) -> None:
    model = make_fake([1]).model
    llm = model.config.llm.model_copy(
        update={"min_token_text_ratio": 2.0, "max_token_text_ratio": 20.0, "enforce_min_len": True}
    )
    model.config = model.config.model_copy(update={"llm": llm})
    rules = model.decoding_rules(10)
    assert (rules.minimum, rules.maximum) == (20, 200)
    assert list(rules.blocked_before_minimum) == list(range(1000, 1004))
    assert model.decoding_rules(10, 50).maximum == 50
    llm = llm.model_copy(update={"enforce_min_len": False})
    model.config = model.config.model_copy(update={"llm": llm})
    assert list(model.decoding_rules(10).blocked_before_minimum) == [1000]
