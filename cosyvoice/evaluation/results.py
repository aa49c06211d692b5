"""What one utterance scored, and the summary of many. Plain data, written as JSON lines and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cosyvoice.evaluation.artefacts import Artefacts
from cosyvoice.evaluation.wer import WordErrors, corpus_rate, mean_rate

LENGTH_RATIO_RANGE = (0.6, 1.5)
"""Length ratios to the original in which an utterance neither broke off nor ran on."""


@dataclass(frozen=True)
class UtteranceResult:
    """One sentence in one voice. What could not be measured is None."""

    group: str
    """`preset`, `reference` or `held-out`."""
    voice: str
    text: str
    recognised: str
    errors: WordErrors
    failure: str = ""
    """`empty`, `not finite`, `too long` or the error; "" where speech came out. Scores every word as deleted."""
    duration: float = 0.0
    """s."""
    rtf: float | None = None
    time_to_first_audio: float | None = None
    retries: int = 0
    original: str = ""
    """Name of the original speech that was compared."""
    original_recognised: str | None = None
    original_errors: WordErrors | None = None
    length_ratio: float | None = None
    """Length of the speech without its silent edges over that of the original."""
    similarity: float | None = None
    """Cosine with the speaker that was meant."""
    nearest: str | None = None
    """The speaker with the largest cosine among all that are enrolled."""
    original_nearest: str | None = None
    """The same for the original speech: the ceiling of `nearest`."""
    meant: str | None = None
    """The enrolled speaker that was meant."""
    artefacts: Artefacts | None = None

    @property
    def length_in_range(self) -> bool:
        """Whether the utterance has a usable length; a failure has not, and one without an original has."""
        low, high = LENGTH_RATIO_RANGE
        return not self.failure and (self.length_ratio is None or low <= self.length_ratio <= high)

    def as_json(self) -> dict[str, Any]:
        """A line of the JSONL file."""
        line = asdict(self)
        line["wer"] = self.errors.rate
        line["original_wer"] = self.original_errors.rate if self.original_errors else None
        line["faults"] = self.artefacts.faults if self.artefacts else []
        return line


@dataclass(frozen=True)
class Summary:
    """Scores of several utterances. Means leave out what could not be measured, never a failure's word
    errors.
    """

    utterances: int
    failures: int
    wer_mean: float | None
    """Mean of the utterances' word error rates."""
    wer_corpus: float | None
    """All errors over all words."""
    substitutions: int
    insertions: int
    deletions: int
    original_wer_mean: float | None
    original_wer_corpus: float | None
    length_ratio: float | None
    length_in_range: float
    """Share of utterances of usable length."""
    length_in_range_without_retry: float
    """Share of utterances that had a usable length at the first attempt."""
    retries: int
    rtf: float | None
    """All processing time over all audio."""
    time_to_first_audio: float | None
    similarity: float | None
    nearest_accuracy: float | None
    """Share of utterances whose nearest enrolled speaker is the one meant."""
    original_nearest_accuracy: float | None
    faults: dict[str, int] = field(default_factory=dict)
    """Utterances with each artefact."""


def summarise(results: Sequence[UtteranceResult]) -> Summary:
    """Scores of `results`; at least one."""
    errors = [result.errors for result in results]
    originals = [result.original_errors for result in results if result.original_errors]
    spoken = [result for result in results if not result.failure]
    timed = [result for result in spoken if result.rtf is not None]
    audio = sum(result.duration for result in timed)
    faults: dict[str, int] = {}
    for result in spoken:
        for fault in result.artefacts.faults if result.artefacts else []:
            faults[fault] = faults.get(fault, 0) + 1
    # A failed utterance has no nearest speaker, hence is not right: it stays in the denominator.
    judged = [result for result in results if result.meant is not None]
    originals_judged = [result for result in judged if result.original_nearest is not None]
    return Summary(
        utterances=len(results),
        failures=len(results) - len(spoken),
        wer_mean=mean_rate(errors),
        wer_corpus=corpus_rate(errors),
        substitutions=sum(e.substitutions for e in errors),
        insertions=sum(e.insertions for e in errors),
        deletions=sum(e.deletions for e in errors),
        original_wer_mean=mean_rate(originals),
        original_wer_corpus=corpus_rate(originals),
        length_ratio=_mean(r.length_ratio for r in spoken),
        length_in_range=_share(results, lambda r: r.length_in_range) or 0.0,
        length_in_range_without_retry=_share(results, lambda r: r.length_in_range and r.retries == 0) or 0.0,
        retries=sum(r.retries for r in results),
        rtf=sum((r.rtf or 0.0) * r.duration for r in timed) / audio if audio else None,
        time_to_first_audio=_mean(r.time_to_first_audio for r in spoken),
        similarity=_mean(r.similarity for r in spoken),
        nearest_accuracy=_share(judged, lambda r: r.nearest == r.meant),
        original_nearest_accuracy=_share(originals_judged, lambda r: r.original_nearest == r.meant),
        faults=dict(sorted(faults.items())),
    )


def summarise_voices(results: Sequence[UtteranceResult]) -> dict[str, dict[str, Summary]]:
    """Summaries by group and voice; `all` is the whole group."""
    groups: dict[str, dict[str, Summary]] = {}
    for group in dict.fromkeys(result.group for result in results):
        members = [result for result in results if result.group == group]
        voices = dict.fromkeys(result.voice for result in members)
        groups[group] = {voice: summarise([r for r in members if r.voice == voice]) for voice in voices}
        groups[group]["all"] = summarise(members)
    return groups


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _share(results: Sequence[UtteranceResult], holds: Callable[[UtteranceResult], bool]) -> float | None:
    return sum(holds(result) for result in results) / len(results) if results else None
