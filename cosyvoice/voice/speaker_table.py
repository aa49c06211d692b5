"""Speakers of `spk2info.pt` as voices, and voices as such speakers.

A built-in speaker is an embedding alone: the language model begins without a reference. A saved one holds all that the
released frontend made of a reference, its transcript as token ids; what was said cannot be told from them without the
tokenizer, so a voice keeps the ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import ModelConfig
from cosyvoice.errors import VoiceError
from cosyvoice.voice.voice import Voice

Entries = Mapping[str, NDArray[Any]]
SpeakerTable = Mapping[str, Entries]
"""Names of speakers to the entries of each: `embedding` [1, 192], or those of a saved speaker."""

_SAVED = ("flow_prompt_speech_token", "prompt_speech_feat", "flow_embedding")


def voices_of_speakers(speakers: SpeakerTable, config: ModelConfig) -> list[Voice]:
    """The speakers of a table as voices of the model with `config`, in the order of the table.

    Raises:
        VoiceError: a speaker lacks an entry, an entry has another shape than it must, or its two embeddings or its two
            prompts differ, which one voice cannot hold.
    """
    return [_voice(name, entries, config) for name, entries in speakers.items()]


def speakers_of_voices(voices: Iterable[Voice]) -> dict[str, dict[str, NDArray[Any]]]:
    """The table of `voices`, as the released implementation reads it.

    Raises:
        VoiceError: a voice has the name of another one, or a transcript that is no token ids yet.
    """
    table: dict[str, dict[str, NDArray[Any]]] = {}
    for voice in voices:
        if voice.name in table:
            raise VoiceError(f"there are two speakers {voice.name!r}; rename one")
        table[voice.name] = _entries(voice)
    return table


def _voice(name: str, entries: Entries, config: ModelConfig) -> Voice:
    provenance = f"spk2info of {config.name}"
    if "flow_embedding" not in entries:
        nothing = np.zeros((0, config.mel.n_mels), np.float16)
        embedding = _row(name, entries, "embedding")
        return Voice(name, np.zeros(0, np.int32), nothing, embedding, provenance=provenance, model=config.name)
    for entry in _SAVED:
        _row(name, entries, entry)
    for one, other in (
        ("flow_embedding", "llm_embedding"),
        ("flow_prompt_speech_token", "llm_prompt_speech_token"),
    ):
        if other in entries and not np.array_equal(_row(name, entries, one), _row(name, entries, other)):
            raise VoiceError(f"the speaker {name!r} has {one} and {other} that differ; save the speaker again")
    text = _row(name, entries, "prompt_text") if "prompt_text" in entries else np.zeros(0, np.int32)
    return Voice(
        name,
        _row(name, entries, "flow_prompt_speech_token"),
        _row(name, entries, "prompt_speech_feat"),
        _row(name, entries, "flow_embedding"),
        provenance=provenance,
        model=config.name,
        prompt_text_token=text,
    )


def _row(name: str, entries: Entries, entry: str) -> NDArray[Any]:
    """The one row of an entry [1, ...], cut to the length that the table tells where it does."""
    if entry not in entries:
        raise VoiceError(f"the speaker {name!r} lacks {entry!r}; save the speaker again")
    value = np.asarray(entries[entry])
    if value.ndim < 2 or value.shape[0] != 1:
        raise VoiceError(f"the speaker {name!r}: {entry} has the shape {value.shape}, it must be [1, ...]")
    row = value[0]
    if f"{entry}_len" not in entries:
        return row
    length = np.asarray(entries[f"{entry}_len"])
    if length.size != 1 or not 0 <= int(length.flat[0]) <= len(row):
        raise VoiceError(f"the speaker {name!r}: {entry}_len does not fit {entry}; save the speaker again")
    return row[: int(length.flat[0])]


def _entries(voice: Voice) -> dict[str, NDArray[Any]]:
    embedding = voice.speaker_embedding[None]
    if len(voice.speech_token) == 0 and len(voice.mel) == 0:
        return {"embedding": embedding}
    if voice.transcript and not len(voice.prompt_text_token):
        raise VoiceError(
            f"the transcript of {voice.name!r} must be token ids (prompt_text_token) to be saved in a table of "
            "speakers; encode it with the model's tokenizer"
        )
    rows = {
        "prompt_text": voice.prompt_text_token,
        "llm_prompt_speech_token": voice.speech_token,
        "flow_prompt_speech_token": voice.speech_token,
        "prompt_speech_feat": voice.mel.astype(np.float32),
    }
    entries: dict[str, NDArray[Any]] = {}
    for entry, row in rows.items():
        entries[entry] = row[None]
        entries[f"{entry}_len"] = np.array([len(row)], np.int32)
    return {**entries, "llm_embedding": embedding, "flow_embedding": embedding}
