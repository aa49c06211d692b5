"""What can be said of a recording before a voice is made of it: the checks of the library, and advice beyond them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosyvoice.engine.alignment import HEARD
from cosyvoice.engine.pipeline import TTS
from cosyvoice.errors import AudioError, SeveralSpeakersError, TextError, VoiceError
from cosyvoice.voice.checks import Samples, check_transcript, read_reference, speech_seconds, trim_edges

GOOD_SECONDS = (3.0, 15.0)
QUIET_PEAK = 0.05
NOISY_DB = 20.0
"""Distance of speech from the pauses below which noise can be heard in the voice."""


@dataclass(frozen=True)
class Finding:
    """One line of the check. `level` is ok, hint or wrong."""

    level: str
    text: str


def examine(path: str | Path | None, transcript: str, count_phones: Callable[[str], int]) -> list[Finding]:
    """What is right and wrong with a recording and its transcript; nothing is raised for either."""
    if path is None:
        return []
    try:
        samples, rate = read_reference(path)
    except AudioError as error:
        return [Finding("wrong", _without_path(str(error), str(path)))]
    samples = trim_edges(samples, rate)
    findings = [*_length(samples, rate), *_loudness(samples, rate)]
    findings += _transcript(samples, rate, transcript.strip(), count_phones)
    return findings


def usable(findings: list[Finding]) -> bool:
    """Whether a voice can be made."""
    return bool(findings) and all(finding.level != "wrong" for finding in findings)


def _length(samples: Samples, rate: int) -> list[Finding]:
    spoken = speech_seconds(samples, rate)
    shortest, longest = GOOD_SECONDS
    if spoken < shortest:
        return [Finding("hint", f"{spoken:.1f} s of speech; {shortest:g} to {longest:g} s make a better voice")]
    if spoken > longest:
        return [Finding("hint", f"{spoken:.1f} s of speech; more than {longest:g} s makes speaking slower, not better")]
    return [Finding("ok", f"{spoken:.1f} s of speech")]


def _loudness(samples: Samples, rate: int) -> list[Finding]:
    frame = rate // 50
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame).astype(np.float64)
    levels = 20 * np.log10(frames.std(axis=1) + 1e-7)
    distance = float(np.quantile(levels, 0.95) - np.quantile(levels, 0.05))
    peak = float(np.abs(samples).max())
    findings = []
    if peak < QUIET_PEAK:
        findings.append(Finding("hint", "very quiet; come closer to the microphone"))
    if distance < NOISY_DB:
        findings.append(Finding("hint", f"noise or music only {distance:.0f} dB below the speech; find a quiet room"))
    return findings or [Finding("ok", f"clear: pauses are {distance:.0f} dB below the speech")]


def _transcript(samples: Samples, rate: int, transcript: str, count_phones: Callable[[str], int]) -> list[Finding]:
    if not transcript:
        return [Finding("hint", "no transcript: the voice will take over the sound, not the manner of speaking")]
    try:
        check_transcript(count_phones(transcript), speech_seconds(samples, rate), transcript)
    except (VoiceError, TextError) as error:
        return [Finding("wrong", str(error))]
    return [Finding("ok", "the transcript fits the length")]


def listening(tts: TTS, path: str | Path, transcript: str) -> list[Finding]:
    """What is heard in a usable recording: whether it is one voice, and whether it says its transcript."""
    samples, rate = read_reference(path)
    findings = []
    try:
        tts.check_one_speaker(samples, rate)
    except SeveralSpeakersError as error:
        findings.append(Finding("hint", str(error)))
    score = tts.transcript_score(samples, rate, transcript)
    if score is None:
        return findings
    if score < HEARD:
        return [*findings, Finding("hint", "the transcript does not seem to be what is said; compare them")]
    return [*findings, Finding("ok", "the words of the transcript are heard in the recording")]


def _without_path(message: str, path: str) -> str:
    """Uploads have names that mean nothing to a person."""
    return message.replace(path, "the recording")
