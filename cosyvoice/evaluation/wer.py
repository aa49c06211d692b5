"""Word error rate: the smallest number of edits that turn the expected words into the recognised ones.

Both customary averages are given and must be named when quoted: the mean over utterances (every utterance
counts the same; the score of seed-tts-eval) and the corpus rate (every word counts the same).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cosyvoice.evaluation.scoring_text import normalise_for_scoring


@dataclass(frozen=True)
class WordErrors:
    """Edits of one utterance; `words` is the length of the expected text."""

    substitutions: int
    insertions: int
    deletions: int
    words: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per expected word; above 1 where much was inserted. An empty expectation counts as one
        word.
        """
        return self.errors / max(1, self.words)


def align_words(expected: Sequence[str], recognised: Sequence[str]) -> WordErrors:
    """Levenshtein alignment. Of equally short ones the one with most substitutions is counted."""
    # A cell is (edits, substitutions, insertions, deletions) of the best path to it; ties prefer the
    # diagonal.
    row = [(j, 0, j, 0) for j in range(len(recognised) + 1)]
    for i, word in enumerate(expected, 1):
        previous, row = row, [(i, 0, 0, i)]
        for j, heard in enumerate(recognised, 1):
            edits, subs, ins, dels = previous[j - 1]
            wrong = int(word != heard)
            best = (edits + wrong, subs + wrong, ins, dels)
            edits, subs, ins, dels = previous[j]
            if edits + 1 < best[0]:
                best = (edits + 1, subs, ins, dels + 1)
            edits, subs, ins, dels = row[j - 1]
            if edits + 1 < best[0]:
                best = (edits + 1, subs, ins + 1, dels)
            row.append(best)
    _, subs, ins, dels = row[-1]
    return WordErrors(subs, ins, dels, len(expected))


def word_errors(expected: str, recognised: str) -> WordErrors:
    """Errors of a recognised text, after both sides are normalised for scoring."""
    return align_words(normalise_for_scoring(expected), normalise_for_scoring(recognised))


def all_deleted(expected: str) -> WordErrors:
    """What an utterance scores that brought no speech: every word is missing."""
    return word_errors(expected, "")


def mean_rate(results: Iterable[WordErrors]) -> float | None:
    """Mean of the utterances' rates; None without utterances."""
    rates = [result.rate for result in results]
    return sum(rates) / len(rates) if rates else None


def corpus_rate(results: Iterable[WordErrors]) -> float | None:
    """All errors over all expected words; None without words."""
    results = list(results)
    words = sum(result.words for result in results)
    return sum(result.errors for result in results) / words if words else None
