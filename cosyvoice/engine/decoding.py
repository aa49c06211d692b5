"""The loop that turns scores into speech tokens, for any implementation of the language model.

Which ids stop it and which are forbidden at the start are rules of the model's generation and come as an
argument. The random numbers of a piece come from a generator of its own, so that pieces, retries and
concurrent requests cannot shift each other's.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cosyvoice.engine.stages import ChoosesTokens, FloatArray, LLMInput, LLMStage

Sampler = Callable[[FloatArray, Sequence[int]], int]
"""Chooses an output id from log-probabilities [outputs] and the ids chosen so far."""


@dataclass(frozen=True)
class DecodingRules:
    """When decoding may and must end."""

    stop_ids: Container[int]
    blocked_before_minimum: Sequence[int]
    """Ids that cannot be chosen before `minimum` tokens."""
    minimum: int
    maximum: int


def piece_generator(seed: int, piece: int, attempt: int) -> np.random.Generator:
    """The source of all randomness of one attempt at one piece."""
    return np.random.default_rng([seed, piece, attempt])


def decode(stage: LLMStage, inputs: LLMInput, sampler: Sampler, rules: DecodingRules) -> Generator[int, None, None]:
    """Yield speech tokens until a stop id (not yielded) or the maximum.

    The state is released however the iteration ends, also when it is abandoned.
    """
    state = stage.init_state(inputs)
    choose = _Choice(sampler, rules)
    token: int | None = None
    try:
        if isinstance(stage, ChoosesTokens):
            yield from stage.tokens(state, choose, rules.maximum)
            return
        for _ in range(rules.maximum):
            scores, state = stage.step(token, state)
            token = choose(scores)
            if token is None:
                return
            yield token
    finally:
        stage.release(state)


def decode_arriving(
    stage: LLMStage, inputs: LLMInput, text: Iterator[Sequence[int]], sampler: Sampler
) -> Generator[int, None, None]:
    """Yield speech tokens while the parts of `text` arrive, then until the model stops by itself.

    `inputs` holds the prompt, without text. What the stage holds is given back however the iteration ends.
    """
    stream = stage.text_stream(inputs, sampler)
    try:
        for part in text:
            yield from stream.push(part)
        yield from stream.finish()
    finally:
        stream.close()


def thin_out_runs(tokens: Iterator[int], thinned: Container[int], longest: int) -> Iterator[int]:
    """`tokens` without those of `thinned` that follow `longest` others of `thinned` directly."""
    run = 0
    for token in tokens:
        run = run + 1 if token in thinned else 0
        if run <= longest:
            yield token


class _Choice:
    """A sampler under the rules of an utterance."""

    def __init__(self, sampler: Sampler, rules: DecodingRules) -> None:
        self._sampler, self._rules = sampler, rules
        self._blocked = list(rules.blocked_before_minimum)
        self._history: list[int] = []

    def __call__(self, scores: FloatArray) -> int | None:
        if len(self._history) < self._rules.minimum and self._blocked:
            scores = scores.copy()
            scores[self._blocked] = -np.inf
        token = self._sampler(scores, self._history)
        if token in self._rules.stop_ids:
            return None
        self._history.append(token)
        return token
