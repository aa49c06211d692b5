"""The text-streaming state machine, driven without a network: N = 2 text and M = 3 speech tokens a block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from cosyvoice.config.model import LLMConfig
from cosyvoice.errors import ConfigError, GenerationError, TextError
from cosyvoice.llm.bistream import BistreamSession, Scores
from cosyvoice.llm.layout import Kind, Row, SpecialTokens

SPECIAL = SpecialTokens(sos=20, eos=21, task=22, fill=23, stop_ids=range(20, 26))
NAMES = {Kind.TEXT: "t", Kind.SPEECH: "s"}


class Script:
    """Stands for network and sampler: keeps what is fed, chooses ids from a plan."""

    def __init__(self, plan: Iterable[int]) -> None:
        self.plan = iter(plan)
        self.fed: list[str] = []
        self.allowed: list[set[int]] = []

    def feed(self, rows: Sequence[Row]) -> Scores:
        assert rows, "the network needs at least one row"
        names = [f"{NAMES[row.kind]}{row.id}" if row.kind in NAMES else {20: "sos", 22: "task"}[row.id] for row in rows]
        self.fed.append(" ".join(names))
        return np.zeros(26, dtype=np.float32)

    def sample(self, scores: Scores, history: Sequence[int]) -> int:
        self.allowed.append(set(np.flatnonzero(np.isfinite(scores)).tolist()))
        return next(self.plan)


def start(
    script: Script,
    prompt_text: Sequence[int] = (),
    prompt_speech_token: Sequence[int] = (),
    head: Sequence[int] = (),
    max_tokens: int | None = None,
    **changes: object,
) -> BistreamSession:
    config = LLMConfig(speech_token_size=20, speech_extra_tokens=6, mix_ratio=(2, 3)).model_copy(update=changes)
    rows = [Row(Kind.SPECIAL, 20), *(Row(Kind.TEXT, i) for i in head)]
    return BistreamSession(
        script.feed, script.sample, SPECIAL, config, rows, prompt_text, prompt_speech_token, max_tokens
    )


def test_block_ends_with_a_forced_fill_and_waits_for_text() -> None:
    script = Script([1, 2, 3, 4, 21])
    session = start(script)
    assert list(session.push([10])) == []
    assert list(session.push([11])) == [1, 2, 3]
    assert list(session.push([12])) == []
    assert list(session.finish()) == [4]
    # The last speech row is read again when the text ends, as the released models read it.
    assert script.fed == ["sos t10 t11", "s1", "s2", "s3", "s3 t12 task", "s4"]
    assert session.history == [1, 2, 3, 23, 4, 21]


def test_training_layout_reads_no_row_twice() -> None:
    script = Script([1, 2, 3, 4, 21])
    session = start(script, released_stream_end=False)
    assert list(session.push([10, 11])) == [1, 2, 3]
    assert list(session.finish()) == [4]
    assert script.fed[-2:] == ["task", "s4"]


def test_one_push_speaks_at_most_one_block() -> None:
    script = Script([1, 2, 3, 4, 5, 6])
    session = start(script)
    assert list(session.push([10, 11, 12, 13, 14])) == [1, 2, 3]
    assert list(session.push([])) == [4, 5, 6]
    assert script.fed[4] == "t12 t13"


def test_early_fill_moves_the_next_forced_one() -> None:
    script = Script([1, 23, 2, 3, 4])
    session = start(script)
    assert list(session.push([10, 11])) == [1]
    assert list(session.push([12, 13])) == [2, 3, 4]
    assert session.history == [1, 23, 2, 3, 4, 23]


def test_prompt_is_interleaved_and_its_last_block_completed() -> None:
    script = Script([6, 7])
    session = start(script, prompt_text=[10, 11], prompt_speech_token=[1, 2, 3, 4])
    assert list(session.push([12])) == []
    assert list(session.push([13])) == [6, 7]
    assert script.fed[0] == "sos t10 t11 s1 s2 s3 t12 t13 s4"
    assert session.history[-1] == SPECIAL.fill


def test_head_behind_sos_lets_it_speak_before_any_text() -> None:
    script = Script([1, 2, 3])
    session = start(script, head=[9])
    assert list(session.push([])) == [1, 2, 3]
    assert script.fed[0] == "sos t9"


@pytest.mark.parametrize(("released", "expected"), [(True, "sos t10 task"), (False, "sos t10 task s1 s2")])
def test_short_text_under_a_long_prompt(released: bool, expected: str) -> None:
    script = Script([21])
    session = start(script, prompt_speech_token=[1, 2], released_stream_end=released)
    assert list(session.push([10])) == []
    assert list(session.finish()) == []
    assert script.fed == [expected]


def test_abandoned_iterators_lose_nothing() -> None:
    script = Script([1, 2, 3, 4, 5, 21])
    session = start(script)
    assert next(session.push([10, 11])) == 1
    assert list(session.push([12])) == [2, 3]
    assert next(session.finish()) == 4
    assert list(session.finish()) == [5]
    assert list(session.finish()) == []
    assert [line for line in script.fed if "task" in line] == ["s3 t12 task"]


def test_two_sessions_are_apart() -> None:
    first, second = Script([1, 2, 3]), Script([4, 5, 6])
    one, other = start(first), start(second)
    pair = zip(one.push([10, 11]), other.push([12, 13]), strict=True)
    assert list(pair) == [(1, 4), (2, 5), (3, 6)]


def test_released_models_block_index_v_amid_text_only() -> None:
    script = Script([1, 2, 3, 21])
    session = start(script)
    list(session.push([10, 11]))
    list(session.finish())
    assert script.allowed[0] == set(range(26)) - {20}
    assert script.allowed[-1] == set(range(26))


def test_enforced_minimum_blocks_what_the_layout_cannot_hold() -> None:
    script = Script([1, 2, 3, 4, 21])
    session = start(script, enforce_min_len=True, min_token_text_ratio=2.0)
    list(session.push([10, 11]))
    list(session.finish())
    speech = set(range(20))
    assert script.allowed == [speech | {23}] * 3 + [speech, speech | {21}]


@pytest.mark.parametrize("finish", [False, True])
def test_unexpected_special_id_is_an_error(finish: bool) -> None:
    session = start(Script([24]))
    with pytest.raises(GenerationError, match="special id 24"):
        list(session.finish() if finish else session.push([10, 11]))


def test_bound_on_the_number_of_tokens() -> None:
    session = start(Script([1] * 100), max_tokens=7)
    spoken = list(session.push([10, 11]))
    spoken += session.finish()
    assert len(spoken) == 7


def test_text_after_the_end_is_refused() -> None:
    session = start(Script([21]))
    session.finish()
    with pytest.raises(TextError, match="ended already"):
        session.push([10])


def test_without_a_limit_the_length_is_that_of_a_text_given_at_once() -> None:
    script = Script([1] * 99)
    session = start(script, enforce_min_len=True, max_token_text_ratio=4.0)
    said = [*session.push([10, 11]), *session.finish()]
    assert len(said) == 8


def test_closing_ends_it_and_gives_back_once() -> None:
    given_back: list[bool] = []
    script = Script([1, 2, 3])
    config = LLMConfig(speech_token_size=20, speech_extra_tokens=6, mix_ratio=(2, 3))
    session = BistreamSession(
        script.feed, script.sample, SPECIAL, config, [Row(Kind.SPECIAL, 20)], release=lambda: given_back.append(True)
    )
    block = session.push([10, 11])
    assert next(block) == 1
    session.close()
    session.close()
    assert given_back == [True]
    assert list(block) == list(session.finish()) == []
    with pytest.raises(TextError, match="ended"):
        session.push([12])


def test_bad_text_is_refused_and_forgotten() -> None:
    def check(text: Sequence[int]) -> None:
        if 99 in text:
            raise TextError("no such id")

    script = Script([1, 2, 3])
    config = LLMConfig(speech_token_size=20, speech_extra_tokens=6, mix_ratio=(2, 3))
    session = BistreamSession(script.feed, script.sample, SPECIAL, config, [Row(Kind.SPECIAL, 20)], check_text=check)
    with pytest.raises(TextError, match="no such id"):
        session.push([99, 98])
    assert list(session.push([10, 11])) == [1, 2, 3]
    assert script.fed[0] == "sos t10 t11"


def test_a_model_without_a_fill_token_is_refused() -> None:
    script = Script([])
    special = SpecialTokens(sos=0, eos=20, task=1, fill=None, stop_ids=range(20, 21))
    with pytest.raises(ConfigError, match="whole text at once"):
        BistreamSession(script.feed, script.sample, special, LLMConfig(), [])
