"""When each word is spoken: the best path of known phones through the recogniser's opinions of every frame.

Viterbi's algorithm over the phones in order, each at least one frame long, with a pause allowed before, between and
after the words. The opinions are those of the frame classifier, not of the CTC head beside it: CTC learns the order of
phones and is free to say each at any time while it lasts, which was measured to cost four times the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosyvoice.errors import AudioError
from cosyvoice.text.phone_classes import PAUSE, phone_class

FLOOR = -8.0
"""Log-probability below which a frame is no worse: one sound that was heard wrongly must not decide over others."""
WINDOW = 1500
"""States before and after the best one that are followed, about a minute and a half of speech: memory and time grow
with the length of the audio, not with its square."""
HEARD = 0.4
"""Mean score of words that are said; others are rarely placed above."""
_IMPOSSIBLE = -1e30


@dataclass(frozen=True)
class WordTime:
    """A word as it was written, with its punctuation, and when it is spoken, in seconds from the start."""

    word: str
    start: float
    end: float
    score: float
    """Mean probability, 0 to 1, of the word's phones where they were placed; below 0.2 it was hardly said."""


@dataclass(frozen=True)
class WordFrames:
    """Frames [start, end) of a word, and the mean probability of its phones there."""

    start: int
    end: int
    score: float


def align_words(log_probs: NDArray[np.float32], words: Sequence[Sequence[str]]) -> list[WordFrames]:
    """Frames of `words`, each given as its phones, in `log_probs` [frames, classes].

    Every word has at least one phone. Raises `AudioError` where the audio has fewer frames than the words phones.
    """
    classes, owners = _states(words)
    shortest = sum(map(len, words))
    if len(log_probs) < shortest:
        raise AudioError(
            f"the audio has room for {len(log_probs)} sounds and the text has {shortest}; "
            "give the whole audio, and the text that it says"
        )
    scores = np.maximum(log_probs, FLOOR)[:, classes]
    path = _best_path(scores, _skippable(owners))
    spoken = owners[path]
    probabilities = np.exp(log_probs[np.arange(len(path)), classes[path]])
    # The path visits every phone, and the words in order.
    starts = np.searchsorted(np.maximum.accumulate(spoken), np.arange(len(words)))
    placed = []
    for number, start in enumerate(starts.tolist()):
        length = int(np.argmin(np.append(spoken[start:] == number, False)))
        score = float(probabilities[start : start + length].mean())
        placed.append(WordFrames(start, start + length, score))
    return placed


def _states(words: Sequence[Sequence[str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class and word number (-1: none) of every state: a pause, then for every word its phones and a pause."""
    pause = phone_class(PAUSE)
    classes, owners = [pause], [-1]
    for number, phones in enumerate(words):
        classes += [*map(phone_class, phones), pause]
        owners += [number] * len(phones) + [-1]
    return np.array(classes), np.array(owners)


def _skippable(owners: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a state may be entered from the last but one: the pause before a word may be left out."""
    skip = np.zeros(len(owners), bool)
    skip[2:] = (owners[2:] >= 0) & (owners[1:-1] < 0)
    return skip


def _best_path(scores: NDArray[np.float32], skip: NDArray[np.bool_]) -> NDArray[np.int64]:
    """States [frames] of the path with the highest sum of `scores` [frames, states] from start to end.

    From frame to frame a path stays, advances by one state, or by two where `skip` allows it.
    """
    frames, states = scores.shape
    width = min(states, 2 * WINDOW)
    # Where the window of each frame begins, and how many states back its best predecessor is.
    offsets = np.zeros(frames, np.int64)
    steps = np.zeros((frames, width), np.int8)
    best = np.full(width, _IMPOSSIBLE)
    best[:2] = scores[0, :2]
    for frame in range(1, frames):
        before = offsets[frame - 1]
        # The path has to be at the end in time: no state may fall out of reach of the frames that remain.
        reach = states - 2 * (frames - frame) - width // 2
        wished = max(before + int(np.argmax(best)) - width // 2, reach)
        offset = min(max(wished, before), states - width)
        moved = np.full(width + 2, _IMPOSSIBLE)
        kept = best[offset - before :]
        moved[2 : 2 + len(kept)] = kept
        for back in (1, 2):
            if offset - before >= back:
                moved[2 - back] = best[offset - before - back]
        here = slice(offset, offset + width)
        choices = np.stack([moved[2:], moved[1:-1], np.where(skip[here], moved[:-2], _IMPOSSIBLE)])
        steps[frame] = np.argmax(choices, axis=0)
        best = np.max(choices, axis=0) + scores[frame, here]
        offsets[frame] = offset
    # The last phone and the pause behind it may both be last.
    state = states - 1 if best[-1] >= best[-2] else states - 2
    path = np.empty(frames, np.int64)
    for frame in range(frames - 1, -1, -1):
        path[frame] = state
        state -= int(steps[frame, state - offsets[frame]])
    return path
