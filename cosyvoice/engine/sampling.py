"""Repetition-aware sampling (RAS) in NumPy, shared by every implementation of the language model.

The rules (which ids are candidates, when a repetition makes the sampler fall back) are here once; the draw
itself is a function that the caller passes, so that a PyTorch generator and a NumPy generator give the same
candidates. Described by Chen et al. 2024 (VALL-E 2); the fallback here draws from all ids but the repeated
one, as the released implementation does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import SamplingConfig
from cosyvoice.errors import ConfigError, GenerationError

FloatArray = NDArray[np.float32]
Multinomial = Callable[[FloatArray], int]
"""Draws an index in proportion to non-negative weights, which need not sum to one."""


HIGHEST_TEMPERATURE = 2.0
_COLDEST = 1e-4


class Candidates(NamedTuple):
    """The nucleus: ids by falling probability, with their raw (not renormalised) probabilities."""

    ids: NDArray[np.int64]
    probabilities: FloatArray


class Draw(NamedTuple):
    """The chosen id, and whether a repetition made the sampler fall back."""

    token: int
    fell_back: bool


def numpy_multinomial(generator: np.random.Generator) -> Multinomial:
    """A draw by inversion: one uniform variate of `generator` a call."""

    def draw(weights: FloatArray) -> int:
        cumulative = np.cumsum(weights, dtype=np.float64)
        index = int(cumulative.searchsorted(generator.random() * cumulative[-1], side="right"))
        # Rounding may carry the variate beyond the end, where trailing ids can have weight zero.
        return index if index < len(weights) else int(np.flatnonzero(weights)[-1])

    return draw


def softmax(scores: FloatArray) -> FloatArray:
    """Probabilities [vocab] of scores [vocab]; a score of -inf gets zero.

    Raises `GenerationError` where no score is finite or one is NaN: there is nothing to choose from.
    """
    scores = np.asarray(scores, dtype=np.float32)
    peak = scores.max()
    if not np.isfinite(peak):
        raise GenerationError(
            "the language model returned no usable score; its weights are damaged or every id is blocked, "
            "so load the model again"
        )
    weights = np.exp(scores - peak)
    return weights / weights.sum()


def nucleus(probabilities: FloatArray, top_p: float, top_k: int) -> Candidates:
    """The likeliest ids until their sum reaches `top_p`, at most `top_k` of them; always at least one.

    Equal probabilities keep the order of their ids. The sum is taken in float32, one id after the other, so
    that the border falls where the released implementation puts it.
    """
    size = len(probabilities)
    if top_k < size:
        # Only what can be among them is put in order: to sort a whole vocabulary takes as long as a small model's step.
        ids = np.flatnonzero(probabilities >= np.partition(probabilities, size - top_k)[size - top_k])
    else:
        ids = np.arange(size)
    order = ids[np.argsort(-probabilities[ids], kind="stable")[:top_k]]
    kept = probabilities[order]
    before = np.concatenate([[np.float32(0.0)], np.cumsum(kept, dtype=np.float32)[:-1]])
    # In single precision the smallest `top_p` are zero.
    count = max(int(np.count_nonzero(before < np.float32(top_p))), 1)
    return Candidates(order[:count], kept[:count])


def count_in_window(token: int, history: Sequence[int], win_size: int) -> int:
    """How often `token` occurs among the last `win_size` ids."""
    return list(history[-win_size:]).count(token)


def is_repeated(token: int, history: Sequence[int], config: SamplingConfig) -> bool:
    """Whether `token` fills at least win_size * tau_r places of the last `win_size` ids.

    A `tau_r` above 1 can never be reached, which turns the check off.
    """
    return count_in_window(token, history, config.win_size) >= config.win_size * config.tau_r


def ras_draw(scores: FloatArray, history: Sequence[int], config: SamplingConfig, multinomial: Multinomial) -> Draw:
    """Choose an id from `scores` [vocab] (log-probabilities) given the ids chosen so far.

    A draw from the nucleus; if it is repeated, one draw from all other ids by their full probabilities.
    """
    candidates = nucleus(softmax(scores), config.top_p, config.top_k)
    token = int(candidates.ids[multinomial(candidates.probabilities)])
    if not is_repeated(token, history, config):
        return Draw(token, False)
    others = np.array(scores, dtype=np.float32)
    others[token] = -np.inf
    return Draw(multinomial(softmax(others)), True)


@dataclass(frozen=True)
class Sampling:
    """Departures from the sampling that a model was tuned for. Raises `ConfigError` for values out of range."""

    top_k: int | None = None
    """Candidates at most; None: the model's own number."""
    top_p: float | None = None
    """Probability that the candidates reach together; None: the model's own."""
    temperature: float = 1.0
    """Scores are divided by it; 0 always takes the likeliest id that is not repeated."""

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k is {self.top_k}; it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p:g}; it must be above 0 and at most 1")
        if not 0 <= self.temperature <= HIGHEST_TEMPERATURE:
            raise ConfigError(
                f"the temperature {self.temperature:g} is out of range; choose one from 0 to {HIGHEST_TEMPERATURE:g}"
            )

    def sampler(self, config: SamplingConfig, multinomial: Multinomial) -> RASSampler:
        """The sampler of a model with `config`, changed so far."""
        changes = {"top_k": self.top_k, "top_p": self.top_p}
        config = config.model_copy(update={name: value for name, value in changes.items() if value is not None})
        return RASSampler(config, multinomial, self.temperature)


class RASSampler:
    """`ras_draw` with its settings and its source of randomness bound: what a language model is given."""

    def __init__(self, config: SamplingConfig, multinomial: Multinomial, temperature: float = 1.0) -> None:
        self.config = config
        self.multinomial = multinomial
        self._temperature = max(temperature, _COLDEST)

    def __call__(self, scores: FloatArray, history: Sequence[int]) -> int:
        if self._temperature != 1.0 and not math.isinf(scores.max()):
            # From the peak, where the coldest temperature stays within single precision.
            scores = np.asarray((scores - scores.max()) / np.float32(self._temperature), np.float32)
        return ras_draw(scores, history, self.config, self.multinomial).token
