"""Speakers that a converted model brings along as a table, as voices."""

from __future__ import annotations

from pathlib import Path

from cosyvoice.checkpoint.speakers import SPEAKERS_FILE, read_speakers
from cosyvoice.config.model import ModelConfig
from cosyvoice.voice.speaker_table import SpeakerTable, voices_of_speakers
from cosyvoice.voice.voice import Voice


def bundled_speakers(directory: Path, config: ModelConfig) -> dict[str, Voice]:
    """The speakers of a converted model; none where it brings no table. Raises `ModelError` for a damaged one."""
    path = Path(directory) / SPEAKERS_FILE
    return named_voices(read_speakers(path), config) if path.is_file() else {}


def named_voices(speakers: SpeakerTable, config: ModelConfig) -> dict[str, Voice]:
    """The speakers of a table by name."""
    return {voice.name: voice for voice in voices_of_speakers(speakers, config)}
