from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cosyvoice.engine.decoding import DecodingRules, decode, piece_generator, thin_out_runs
from cosyvoice.engine.stages import LLMInput

RULES = DecodingRules(stop_ids=range(1000, 1004), blocked_before_minimum=[], minimum=0, maximum=100)


def best(scores: np.ndarray, history: Any) -> int:
    return int(scores.argmax())


def test_the_stop_id_ends_and_is_not_given(make_fake: Any) -> None:
    llm = make_fake([5, 6, 7]).llm
    assert list(decode(llm, LLMInput([1]), best, RULES)) == [5, 6, 7]
    assert llm.released == 1


def test_the_maximum_ends(make_fake: Any) -> None:
    llm = make_fake(range(50)).llm
    rules = DecodingRules(RULES.stop_ids, [], 0, 7)
    assert list(decode(llm, LLMInput([1]), best, rules)) == list(range(7))
    assert llm.steps == 7


def test_blocked_ids_cannot_be_chosen_before_the_minimum(make_fake: Any) -> None:
    class Eager:
        def init_state(self, inputs: LLMInput) -> int:
            return 0

        def step(self, token: int | None, state: int) -> tuple[np.ndarray, int]:
            scores = np.array([-5.0, -6.0, -1.0, -9.0], np.float32)
            scores.setflags(write=False)
            return scores, state + 1

        def release(self, state: int) -> None:
            assert state == 4

    rules = DecodingRules(stop_ids=[2, 3], blocked_before_minimum=[2, 3], minimum=3, maximum=10)
    assert list(decode(Eager(), LLMInput([1]), best, rules)) == [0, 0, 0]


def test_an_abandoned_decoder_releases_its_state(make_fake: Any) -> None:
    llm = make_fake(range(50)).llm
    tokens = decode(llm, LLMInput([1]), best, RULES)
    next(tokens)
    tokens.close()
    assert llm.released == 1


def test_an_error_in_the_sampler_releases_the_state(make_fake: Any) -> None:
    def broken(scores: np.ndarray, history: Any) -> int:
        raise RuntimeError

    llm = make_fake([1]).llm
    with pytest.raises(RuntimeError):
        list(decode(llm, LLMInput([1]), broken, RULES))
    assert llm.released == 1


def test_generators_differ_by_seed_piece_and_attempt() -> None:
    draws = {
        piece_generator(seed, piece, attempt).random()
        for seed in range(3)
        for piece in range(3)
        for attempt in range(3)
    }
    assert len(draws) == 27
    assert piece_generator(1, 2, 3).random() == piece_generator(1, 2, 3).random()


def test_runs_of_silent_tokens_are_thinned_out() -> None:
    tokens = [1, 9, 9, 9, 8, 9, 2, 9, 9, 9, 9]
    assert list(thin_out_runs(iter(tokens), {8, 9}, 3)) == [1, 9, 9, 9, 2, 9, 9, 9]
    assert list(thin_out_runs(iter(tokens), (), 0)) == tokens
