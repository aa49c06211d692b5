"""Speak every sentence in every voice and measure what comes out.

A failure (an error, no samples, values that are not finite, more than 30 s) is a result like any other: it
counts, with every word deleted. Results are given out one by one, so that an interrupted run keeps what it
has measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from cosyvoice.audio.io import write_audio
from cosyvoice.errors import CosyVoiceError
from cosyvoice.evaluation.artefacts import measure_artefacts, sounding_seconds
from cosyvoice.evaluation.plan import Plan, Trial
from cosyvoice.evaluation.protocols import Embedder, Speaker, Speech
from cosyvoice.evaluation.recogniser import Recogniser
from cosyvoice.evaluation.results import UtteranceResult
from cosyvoice.evaluation.similarity import cosine_similarity, nearest
from cosyvoice.evaluation.sources import Audio
from cosyvoice.evaluation.wer import WordErrors, all_deleted, word_errors

LONGEST_SECONDS = 30.0
_SILENT_PEAK = 1e-3
_SHORTEST_EMBEDDED_SECONDS = 0.25


def find_failure(samples: np.ndarray, sample_rate: int) -> str:
    """Why mono `samples` [time] are no speech at all; empty where they may be speech."""
    if len(samples) and not np.isfinite(samples).all():
        return "not finite"
    if not len(samples) or float(np.abs(samples).max()) < _SILENT_PEAK:
        return "empty"
    return "too long" if len(samples) > LONGEST_SECONDS * sample_rate else ""


class Evaluation:
    """Measures trials. Holds the recogniser, the encoder and what was recognised of the originals."""

    def __init__(
        self,
        tts: Speaker,
        recogniser: Recogniser,
        embed: Embedder,
        seed: int = 1,
        keep_audio: Path | None = None,
    ) -> None:
        """`keep_audio` is a folder that exists: every utterance is written there."""
        self._tts, self._recogniser, self._embed, self._seed = tts, recogniser, embed, seed
        self._keep_audio = keep_audio
        self._heard: dict[tuple[str, str], tuple[str, WordErrors]] = {}
        self.embeddings: dict[str, dict[str, list[np.ndarray]]] = {}
        """Embeddings of the utterances by group and voice."""

    def run(self, plan: Plan) -> Iterator[UtteranceResult]:
        """Measure every trial in order. One utterance is spoken before and thrown away, since the first is
        slow.
        """
        if plan.trials:
            self._speak(plan.trials[0])
        for number, trial in enumerate(plan.trials):
            yield self._measure(number, trial, plan.enrolled.get(trial.group, {}))

    def _speak(self, trial: Trial) -> tuple[Speech | None, str]:
        """The speech, or None and what failed."""
        try:
            speech = self._tts.say(trial.text, trial.conditions, seed=self._seed)
        except CosyVoiceError as error:
            return None, f"{type(error).__name__}: {error}"
        return speech, find_failure(speech.samples, speech.sample_rate)

    def _measure(self, number: int, trial: Trial, enrolled: Mapping[str, np.ndarray]) -> UtteranceResult:
        speech, failure = self._speak(trial)
        result = UtteranceResult(
            trial.group, trial.voice, trial.text, "", all_deleted(trial.text), failure, meant=trial.meant
        )
        if speech is not None:
            rate, report = speech.sample_rate, speech.report
            result = replace(result, duration=len(speech.samples) / rate, retries=report.retries)
            if self._keep_audio is not None and len(speech.samples) and np.isfinite(speech.samples).all():
                write_audio(self._keep_audio / f"{number:04d}-{trial.voice}.wav", speech.samples, rate)
            if not failure:
                result = replace(result, rtf=report.rtf, time_to_first_audio=report.time_to_first_audio)
                result = self._listen(result, trial, Audio(speech.samples, rate), enrolled)
        return self._compare(result, trial, enrolled)

    def _listen(
        self, result: UtteranceResult, trial: Trial, audio: Audio, enrolled: Mapping[str, np.ndarray]
    ) -> UtteranceResult:
        """Add what is measured on the speech itself."""
        original = trial.original_audio
        if original is not None:
            expected = sounding_seconds(original.samples, original.sample_rate)
            ratio = sounding_seconds(audio.samples, audio.sample_rate) / expected
            result = replace(result, length_ratio=ratio)
        recognised = self._recogniser.transcribe(audio.samples, audio.sample_rate)
        result = replace(
            result,
            recognised=recognised,
            errors=word_errors(result.text, recognised),
            artefacts=measure_artefacts(audio.samples, audio.sample_rate),
        )
        if result.duration < _SHORTEST_EMBEDDED_SECONDS:
            return result
        embedding = self._embed(audio.samples, audio.sample_rate)
        self.embeddings.setdefault(result.group, {}).setdefault(result.voice, []).append(embedding)
        if result.meant is None:
            return result
        return replace(
            result,
            similarity=cosine_similarity(embedding, enrolled[result.meant]),
            nearest=nearest(embedding, enrolled),
        )

    def _compare(self, result: UtteranceResult, trial: Trial, enrolled: Mapping[str, np.ndarray]) -> UtteranceResult:
        """Add what was recognised of the original, and whom the encoder takes it for."""
        audio = trial.original_audio
        if audio is None:
            return result
        key = (trial.original, trial.text)
        if key not in self._heard:
            recognised = self._recogniser.transcribe(audio.samples, audio.sample_rate)
            self._heard[key] = recognised, word_errors(trial.text, recognised)
        recognised, errors = self._heard[key]
        result = replace(result, original=trial.original, original_recognised=recognised, original_errors=errors)
        if result.meant is not None and trial.group == "held-out":
            embedding = self._embed(audio.samples, audio.sample_rate)
            result = replace(result, original_nearest=nearest(embedding, enrolled))
        return result
