"""Alignment of a word's letters with its phones: which letter says what, learnt from a lexicon by EM.

Every letter emits zero, one or two phones (its chunk), and p(chunk | letter) is estimated by expectation
maximisation over all the segmentations of a word (A. W. Black, K. Lenzo, V. Pagel, "Issues in building
general letter to sound rules", 1998, who list the allowed chunks by hand; here they start out all
allowed). Words of equal lengths are processed together, which makes an iteration over a hundred thousand
words a matter of a second or two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Move = tuple[int, int, int, int, Ints]

MAX_CHUNK = 2
# A letter that says two phones (the x of "box") is rare; the prior keeps EM from splitting words that way.
_TWO_PHONE_PRIOR = 0.01
_SILENT_PRIOR = 0.3
_SMOOTHING = 1e-3


class LetterAligner:
    """Aligns words given as letter ids with pronunciations given as phone ids (stress left out)."""

    def __init__(self, letters: int, phones: int) -> None:
        self._phones = phones
        chunks = 1 + phones + phones * phones
        prior = np.full(chunks, _TWO_PHONE_PRIOR / phones)
        prior[1 : 1 + phones] = 1.0
        prior[0] = _SILENT_PRIOR
        self._log_p: Floats = np.log(np.tile(prior / prior.sum(), (letters, 1)))

    def fit(self, words: Sequence[Sequence[int]], phones: Sequence[Sequence[int]], iterations: int = 6) -> None:
        """EM over the words; a word with more than two phones a letter is left out."""
        groups = [group for group in _by_length(words, phones).values() if _alignable(group[1], group[2])]
        for _ in range(iterations):
            counts = np.full_like(self._log_p, _SMOOTHING)
            counts[:, 1 + self._phones :] = _SMOOTHING / self._phones
            for _, letter_ids, phone_ids in groups:
                self._add_expected_counts(letter_ids, phone_ids, counts)
            self._log_p = np.log(counts / counts.sum(axis=1, keepdims=True))

    def align(
        self, words: Sequence[Sequence[int]], phones: Sequence[Sequence[int]]
    ) -> dict[int, list[tuple[int, int]]]:
        """Best segmentation: index of the word -> one (start, end) into its phones for every letter.

        Words that no segmentation fits are absent.
        """
        aligned: dict[int, list[tuple[int, int]]] = {}
        for indices, letter_ids, phone_ids in _by_length(words, phones).values():
            if not _alignable(letter_ids, phone_ids):
                continue
            sizes = self._best_sizes(letter_ids, phone_ids)
            ends = np.cumsum(sizes, axis=1)
            for row, index in enumerate(indices):
                aligned[index] = list(zip((ends - sizes)[row].tolist(), ends[row].tolist(), strict=True))
        return aligned

    def _chunk_ids(self, phone_ids: Ints, start: int, size: int) -> Ints:
        """Chunk number of `size` phones from `start` on, for every word of a group: [words]."""
        if size == 0:
            return np.zeros(len(phone_ids), dtype=np.int64)
        if size == 1:
            return 1 + phone_ids[:, start]
        return 1 + self._phones + phone_ids[:, start] * self._phones + phone_ids[:, start + 1]

    def _moves(self, letter_ids: Ints, phone_ids: Ints) -> list[Move]:
        """Every step of the lattice as (letter, phone before, phone after, chunk size, chunk ids [words])."""
        count, total = letter_ids.shape[1], phone_ids.shape[1]
        chunks = {
            (start, size): self._chunk_ids(phone_ids, start, size)
            for size in range(MAX_CHUNK + 1)
            for start in range(total - size + 1)
        }
        return [
            (letter, start, start + size, size, chunk)
            for letter in range(count)
            for (start, size), chunk in chunks.items()
            if start <= MAX_CHUNK * letter and total - start - size <= MAX_CHUNK * (count - letter - 1)
        ]

    def _add_expected_counts(self, letter_ids: Ints, phone_ids: Ints, counts: Floats) -> None:
        """Forward-backward over the lattice letter by phone; adds each move's posterior to `counts`."""
        rows, letters = letter_ids.shape
        total = phone_ids.shape[1]
        moves = self._moves(letter_ids, phone_ids)
        scores = [self._log_p[letter_ids[:, letter], chunk] for letter, _, _, _, chunk in moves]
        forward = np.full((letters + 1, total + 1, rows), -np.inf)
        forward[0, 0] = 0.0
        for (letter, start, end, _, _), score in zip(moves, scores, strict=True):
            reached = forward[letter + 1, end]
            np.logaddexp(reached, forward[letter, start] + score, out=reached)
        backward = np.full_like(forward, -np.inf)
        backward[letters, total] = 0.0
        for (letter, start, end, _, _), score in zip(reversed(moves), reversed(scores), strict=True):
            reached = backward[letter, start]
            np.logaddexp(reached, backward[letter + 1, end] + score, out=reached)
        evidence = forward[letters, total]
        for (letter, start, end, _, chunk), score in zip(moves, scores, strict=True):
            posterior = np.exp(forward[letter, start] + score + backward[letter + 1, end] - evidence)
            np.add.at(counts, (letter_ids[:, letter], chunk), posterior)

    def _best_sizes(self, letter_ids: Ints, phone_ids: Ints) -> Ints:
        """Viterbi: chunk sizes of the best segmentation, [words, letters]."""
        rows, letters = letter_ids.shape
        total = phone_ids.shape[1]
        best = np.full((letters + 1, total + 1, rows), -np.inf)
        best[0, 0] = 0.0
        taken = np.zeros((letters + 1, total + 1, rows), dtype=np.int64)
        for letter, start, end, size, chunk in self._moves(letter_ids, phone_ids):
            score = best[letter, start] + self._log_p[letter_ids[:, letter], chunk]
            better = score > best[letter + 1, end]
            best[letter + 1, end][better] = score[better]
            taken[letter + 1, end][better] = size
        sizes = np.zeros((rows, letters), dtype=np.int64)
        position = np.full(rows, total)
        for letter in reversed(range(letters)):
            sizes[:, letter] = taken[letter + 1, position, np.arange(rows)]
            position = position - sizes[:, letter]
        return sizes


def _alignable(letter_ids: Ints, phone_ids: Ints) -> bool:
    return 0 < phone_ids.shape[1] <= MAX_CHUNK * letter_ids.shape[1]


def _by_length(
    words: Sequence[Sequence[int]], phones: Sequence[Sequence[int]]
) -> dict[tuple[int, int], tuple[list[int], Ints, Ints]]:
    """Words of equal letter and phone counts together: indices, letter ids [words, letters], phone ids."""
    indices: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (word, pronunciation) in enumerate(zip(words, phones, strict=True)):
        indices[len(word), len(pronunciation)].append(index)
    return {
        lengths: (chosen, np.array([words[i] for i in chosen]), np.array([phones[i] for i in chosen]))
        for lengths, chosen in indices.items()
    }
