"""Speakers of a corpus that no training has heard: a reference recording, sentences to speak, the originals.

The recordings of a speaker are used once each: one (or two, joined) is the reference that is cloned, some
are spoken again by the model, and the rest tell what the speaker sounds like.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from cosyvoice.audio.io import read_audio
from cosyvoice.errors import ConfigError, MissingDependencyError

SPLIT = "test"
REFERENCE_SECONDS = (3.0, 8.0)
_BEST_REFERENCE_SECONDS = 5.0
_JOIN_SECONDS = 0.2


@dataclass(frozen=True)
class Recording:
    """One utterance of the corpus: mono samples [time] in [-1, 1]."""

    id: str
    text: str
    samples: np.ndarray
    sample_rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True)
class HeldOutSpeaker:
    """A speaker with the three uses of its recordings."""

    name: str
    reference: Recording
    spoken: tuple[Recording, ...]
    """Their texts are spoken in the cloned voice and compared with these recordings."""
    enrolment: tuple[Recording, ...]


def read_held_out(corpus: Path, speakers: int, sentences: int) -> list[HeldOutSpeaker]:
    """The first `speakers` held-out speakers of a corpus folder, by name, with `sentences` texts each.

    Speakers without enough speech for a reference of 3 to 8 s, a text and an enrolment are left out.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        ConfigError: the folder holds no corpus or no usable held-out speaker.
    """
    found = []
    for name, rows in sorted(_rows(corpus).items()):
        recordings = [_recording(row) for row in sorted(rows, key=lambda row: row["id"])]
        speaker = divide(name, recordings, sentences)
        if speaker is not None:
            found.append(speaker)
        if len(found) == speakers:
            break
    if not found:
        raise ConfigError(f"{corpus} holds no usable speaker of the {SPLIT} split; build the corpus with test speakers")
    return found


def divide(name: str, recordings: list[Recording], sentences: int) -> HeldOutSpeaker | None:
    """Divide a speaker's recordings; None where they do not suffice."""
    chosen = _reference(recordings)
    if chosen is None:
        return None
    used = {recording.id for recording in chosen}
    others = [recording for recording in recordings if recording.id not in used]
    # At least one recording stays for the enrolment.
    spoken, enrolment = others[: min(sentences, len(others) - 1)], others[min(sentences, len(others) - 1) :]
    if not spoken:
        return None
    return HeldOutSpeaker(name, _join(chosen), tuple(spoken), tuple(enrolment))


def _reference(recordings: list[Recording]) -> tuple[Recording, ...] | None:
    """One recording of 3 to 8 s, or two that have this length together; the closest to 5 s."""
    low, high = REFERENCE_SECONDS
    for count in (1, 2):
        groups = [
            group
            for group in combinations(recordings, count)
            if low <= sum(r.seconds for r in group) + _JOIN_SECONDS * (count - 1) <= high
        ]
        if groups:
            return min(groups, key=lambda group: abs(sum(r.seconds for r in group) - _BEST_REFERENCE_SECONDS))
    return None


def _join(parts: tuple[Recording, ...]) -> Recording:
    if len(parts) == 1:
        return parts[0]
    rate = parts[0].sample_rate
    pause = np.zeros(int(_JOIN_SECONDS * rate), np.float32)
    pieces = [parts[0].samples]
    for part in parts[1:]:
        pieces += [pause, part.samples]
    identifier = "+".join(part.id for part in parts)
    return Recording(identifier, " ".join(part.text for part in parts), np.concatenate(pieces), rate)


def _rows(corpus: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError("reading a corpus needs pyarrow: pip install 'cosyvoice[train]'") from error
    shards = sorted(corpus.glob("*.parquet"))
    if not shards:
        raise ConfigError(
            f"{corpus} holds no corpus (no .parquet shards); name the folder that the corpus was built in"
        )
    rows: dict[str, list[dict[str, Any]]] = {}
    for shard in shards:
        # The split is checked before the audio is read: most shards are training speech.
        if SPLIT not in pq.read_table(shard, columns=["split"])["split"].to_pylist():
            continue
        for row in pq.read_table(shard, columns=["id", "split", "speaker", "text", "flac"]).to_pylist():
            if row["split"] == SPLIT:
                rows.setdefault(row["speaker"], []).append(row)
    return rows


def _recording(row: dict[str, Any]) -> Recording:
    samples, rate = read_audio(io.BytesIO(row["flac"]))
    return Recording(row["id"], row["text"], samples, rate)
