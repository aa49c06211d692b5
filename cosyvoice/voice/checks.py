"""What makes a recording unfit as a reference, found before any network runs.

A bad reference gives a bad voice without any further sign, so every check names what is wrong with the
recording and what to do about it. The limits are generous: they refuse what cannot work, not what could be
better.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cosyvoice.audio.io import read_audio
from cosyvoice.errors import AudioError, VoiceError

MIN_SECONDS = 1.0
MAX_SECONDS = 30.0
"""The speech tokenizers see at most 30 s."""
MIN_SAMPLE_RATE = 16000
"""Hz; below, what distinguishes voices is no longer in the recording."""
SILENT_PEAK = 0.003
"""-50 dB of full scale."""
MIN_SPEECH_SECONDS = 0.6
PHONES_PER_SECOND = (3.0, 26.0)
"""Slowest and fastest speech; people speak 10 to 15 phones a second."""

_FRAME_SECONDS = 0.02
# Frames this far below the loud ones (-35 dB) are pauses.
_PAUSE_RATIO = 10 ** (-35 / 20)
_KEPT_EDGE_SECONDS = 0.1
# At least so many equal samples in a row at the extreme, in at least this part of all samples.
_CLIPPED_RUN = 4
_CLIPPED_FRACTION = 0.001
_FULL_SCALE = 0.9

Samples = NDArray[np.float32]


def read_reference(source: str | Path | BinaryIO) -> tuple[Samples, int]:
    """Mono samples [time] and rate (Hz) of a recording that passed `check_reference`.

    Any file that libsndfile reads is accepted, whatever its channels, width and rate (from 16 kHz).

    Raises `AudioError` for a file that is missing, unreadable, or fails a check.
    """
    samples, sample_rate = read_audio(source, max_seconds=MAX_SECONDS)
    name = str(source) if isinstance(source, (str, Path)) else "the reference"
    check_reference(samples, sample_rate, name)
    return samples, sample_rate


def check_reference(samples: Samples, sample_rate: int, name: str = "the reference") -> None:
    """Raise `AudioError` for a recording [time] that no usable voice can be made of."""
    if sample_rate < MIN_SAMPLE_RATE:
        raise AudioError(
            f"{name} has {sample_rate} samples a second, at least {MIN_SAMPLE_RATE} are needed; "
            "record it anew at 24000 Hz or more (raising the rate of the file does not bring detail back)"
        )
    if samples.ndim != 1:
        raise AudioError(f"{name} has the shape {samples.shape}; give mono samples [time]")
    if samples.size and not np.isfinite(samples).all():
        raise AudioError(f"{name} holds values that are not finite numbers; convert it to 16-bit WAV")
    seconds = len(samples) / sample_rate
    if seconds < MIN_SECONDS:
        raise AudioError(f"{name} lasts {seconds:.2f} s, less than {MIN_SECONDS:g} s; give 3 to 15 s of clear speech")
    if seconds > MAX_SECONDS:
        raise AudioError(f"{name} lasts {seconds:.1f} s, more than {MAX_SECONDS:g} s; cut it to 3 to 15 s")
    if float(np.abs(samples - samples.mean()).max()) < SILENT_PEAK:
        raise AudioError(f"{name} is silent; check the microphone and record it again")
    if is_clipped(samples):
        raise AudioError(f"{name} is clipped (cut off at full scale); record it again with less gain")
    spoken = speech_seconds(samples, sample_rate)
    if spoken < MIN_SPEECH_SECONDS:
        raise AudioError(
            f"{name} holds only {spoken:.2f} s of sound, the rest is silence; give 3 to 15 s of clear speech"
        )


def check_transcript(phones: int, seconds: float, transcript: str) -> None:
    """Raise `VoiceError` where `phones` phones cannot be what is said in `seconds` s of speech."""
    rate = phones / max(seconds, 1e-3)
    slowest, fastest = PHONES_PER_SECOND
    if slowest <= rate <= fastest:
        return
    problem = "more than can be said" if rate > fastest else "too little"
    raise VoiceError(
        f"the transcript {_shortened(transcript)!r} ({phones} phones) is {problem} for {seconds:.1f} s of "
        "speech; write exactly what the reference says, or leave the transcript out"
    )


def is_clipped(samples: Samples) -> bool:
    """Whether runs of equal samples stand at the extremes, as a converter out of range leaves them."""
    peak = float(np.abs(samples).max())
    if peak < _FULL_SCALE:
        return False
    at_extreme = np.abs(samples) >= 0.9999 * peak
    edges = np.flatnonzero(np.diff(np.concatenate([[0], at_extreme.astype(np.int8), [0]])))
    runs = edges[1::2] - edges[::2]
    return int(runs[runs >= _CLIPPED_RUN].sum()) > _CLIPPED_FRACTION * len(samples)


def speech_seconds(samples: Samples, sample_rate: int) -> float:
    """Seconds that are not pauses: 20 ms frames louder than 35 dB below the loud frames."""
    return float(np.count_nonzero(_active_frames(samples, sample_rate)) * _FRAME_SECONDS)


def speech_only(samples: Samples, sample_rate: int) -> Samples:
    """`samples` without their pauses, the frames that are left joined."""
    active = _active_frames(samples, sample_rate)
    frame = int(_FRAME_SECONDS * sample_rate)
    return samples[: len(active) * frame].reshape(len(active), frame)[active].reshape(-1)


def trim_edges(samples: Samples, sample_rate: int) -> Samples:
    """`samples` with at most 0.1 s of silence before the first and after the last sound."""
    active = np.flatnonzero(_active_frames(samples, sample_rate))
    if active.size == 0:
        return samples
    frame = int(_FRAME_SECONDS * sample_rate)
    kept = int(_KEPT_EDGE_SECONDS * sample_rate)
    start = max(0, int(active[0]) * frame - kept)
    return samples[start : (int(active[-1]) + 1) * frame + kept]


def _active_frames(samples: Samples, sample_rate: int) -> NDArray[np.bool_]:
    frame = int(_FRAME_SECONDS * sample_rate)
    count = len(samples) // frame
    if count == 0:
        return np.zeros(0, bool)
    frames = samples[: count * frame].reshape(count, frame).astype(np.float64)
    # Without the mean, since a constant offset is no sound.
    loudness = frames.std(axis=1)
    threshold = max(float(np.quantile(loudness, 0.95)) * _PAUSE_RATIO, SILENT_PEAK / 10)
    return loudness > threshold


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
