"""What a language model reads before it speaks: the rules, without a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cosyvoice.config.model import LLMConfig, Qwen2Config, TransformerLMConfig
from cosyvoice.errors import ConfigError, TextError, VoiceError
from cosyvoice.llm.layout import Kind, Row, special_tokens
from cosyvoice.llm.prompt import PromptRules

THIRD = LLMConfig(qwen=Qwen2Config(vocab_size=50), speech_token_size=20, speech_extra_tokens=4, mix_ratio=(2, 3))
MARK = 40


class Rules(PromptRules):
    def __init__(self, config: LLMConfig | TransformerLMConfig = THIRD, mark: int | None = MARK) -> None:
        self.config, self.special, self.end_of_prompt_id = config, special_tokens(config), mark


def test_a_speaker_is_read_by_models_that_have_a_row_for_one() -> None:
    speaker = np.ones(192, np.float32)
    assert Rules().used_speaker(speaker) is None
    first = Rules(TransformerLMConfig(), None)
    assert first.used_speaker(speaker) is speaker
    assert first.used_speaker(None) is None
    with pytest.raises(VoiceError, match=r"\(3,\).*192 numbers"):
        first.used_speaker(speaker[:3])


def test_a_stream_begins_with_what_precedes_the_mark() -> None:
    fed: list[list[Row]] = []

    def feed(rows: Sequence[Row]) -> np.ndarray:
        fed.append(list(rows))
        return np.zeros(24, np.float32)

    stream = Rules().open_stream(feed, lambda scores, history: 3, [1, MARK, 2], [7, 8, 9])
    next(stream.push([4]))
    assert fed[0] == [
        Row(Kind.SPECIAL, 20),
        *(Row(Kind.TEXT, i) for i in (1, MARK, 2, 4)),
        *(Row(Kind.SPEECH, i) for i in (7, 8, 9)),
    ]


def test_a_stream_has_the_rules_of_a_prompt() -> None:
    def begin(rules: PromptRules, text: Sequence[int], speech: Sequence[int] = ()) -> None:
        rules.open_stream(lambda rows: np.zeros(24, np.float32), lambda scores, history: 0, text, speech)

    with pytest.raises(TextError, match="endofprompt"):
        begin(Rules(), [1])
    with pytest.raises(TextError, match="50 tokens"):
        begin(Rules(), [MARK, 50])
    with pytest.raises(VoiceError, match=r"0\.\.19"):
        begin(Rules(), [MARK], [20])
    with pytest.raises(ConfigError, match="whole text at once"):
        begin(Rules(THIRD.model_copy(update={"bistream": False})), [MARK])
