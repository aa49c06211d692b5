"""Concurrent requests through the loop that decodes every request, with random sampling, on the small model."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cosyvoice.config.model import LLMConfig, SamplingConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.engine.decoding import DecodingRules, decode
from cosyvoice.engine.sampling import RASSampler, numpy_multinomial
from cosyvoice.engine.stages import LLMInput
from cosyvoice.native.llm import NativeLLMStage
from cosyvoice.native.runtime import Runtime

MINI = Path(__file__).parents[2] / "cosyvoice" / "pretrained" / "mini"
CONFIG = read_model_config(MINI)
assert isinstance(CONFIG.llm, LLMConfig)
TEXT_IDS, SPEECH_IDS = CONFIG.llm.qwen.vocab_size, CONFIG.llm.speech_token_size


def mini_stage(**settings: int) -> NativeLLMStage:
    return NativeLLMStage(MINI, CONFIG.llm, CONFIG.end_of_prompt_id, Runtime(1), **settings)


def some_input(text: int, speech: int, seed: int) -> LLMInput:
    rng = np.random.default_rng(seed)
    return LLMInput(rng.integers(0, TEXT_IDS, text).tolist(), (), rng.integers(0, SPEECH_IDS, speech).tolist())


def sampler_of(seed: int) -> RASSampler:
    return RASSampler(SamplingConfig(), numpy_multinomial(np.random.default_rng(seed)))


def one_step_at_a_time(stage: NativeLLMStage, inputs: LLMInput, seed: int, count: int) -> list[int]:
    sampler, state, tokens = sampler_of(seed), stage.init_state(inputs), list[int]()
    for _ in range(count):
        scores, state = stage.step(tokens[-1] if tokens else None, state)
        tokens.append(sampler(scores[:SPEECH_IDS], tokens))
    stage.release(state)
    return tokens


def choices(stage: NativeLLMStage, inputs: LLMInput, seed: int, count: int) -> Generator[int, None, None]:
    """Sampled tokens by the loop that decodes every request."""
    return decode(stage, inputs, sampler_of(seed), DecodingRules((), stage.special.stop_ids, count, count))


def test_choices_made_by_whoever_leads_are_those_of_each_alone() -> None:
    """Sampling is random, lengths differ, some requests stop half way; buffers grow and places close under all that."""
    jobs = [(some_input(5 + 9 * i, 3 * i, seed=i), i, 20 + 9 * i) for i in range(8)]
    alone = mini_stage()
    solo = [list(choices(alone, *job)) for job in jobs]
    assert [len(tokens) for tokens in solo] == [job[2] for job in jobs]
    assert solo[0] == one_step_at_a_time(mini_stage(), *jobs[0])
    stage = mini_stage(slots=2, capacity=64)
    start = threading.Barrier(8)

    def together(number: int) -> list[int]:
        start.wait()
        tokens = choices(stage, *jobs[number])
        if number % 3 != 1:
            return list(tokens)
        some = list(itertools.islice(tokens, 11))
        tokens.close()
        return some

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(together, range(8)))
    assert found == [tokens[:11] if number % 3 == 1 else tokens for number, tokens in enumerate(solo)]
    stage._pool.compact()
    assert stage._pool.sequences == []


def test_a_failing_sampler_ends_its_request_only() -> None:
    stage, start = mini_stage(), threading.Barrier(3)
    rules = DecodingRules((), (), 0, 30)

    def speak(number: int) -> int:
        def sampler(scores: np.ndarray, history: Sequence[int]) -> int:
            return 1 // (number != 1 or len(history) != 17) + len(history)

        start.wait()
        said: list[int] = []
        try:
            said.extend(decode(stage, some_input(9, 3, seed=number), sampler, rules))
        except ZeroDivisionError:
            return -1
        return len(said)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(speak, range(3))) == [30, -1, 30]


def test_no_step_is_made_for_no_token() -> None:
    stage, calls = mini_stage(), []

    def sampler(scores: np.ndarray, history: Sequence[int]) -> int:
        calls.append(len(history))
        return 0

    inputs = some_input(5, 0, seed=0)
    assert list(decode(stage, inputs, sampler, DecodingRules((), (), 0, 0))) == calls == []
    assert list(decode(stage, inputs, sampler, DecodingRules((), (), 0, 1))) == [0]
    assert list(decode(stage, inputs, sampler, DecodingRules((0,), (), 0, 9))) == []
    assert calls == [0, 0]
