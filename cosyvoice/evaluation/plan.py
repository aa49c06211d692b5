"""What to speak: sentences in voices, each beside its original speech and the speaker that is meant.

There are three kinds of voices: the model's presets, references that a user brings, and held-out speakers
of the corpus, whose own recordings are the originals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cosyvoice.audio.io import read_audio, write_audio
from cosyvoice.errors import VoiceError
from cosyvoice.evaluation.held_out import HeldOutSpeaker
from cosyvoice.evaluation.protocols import Embedder, Speaker
from cosyvoice.evaluation.similarity import centroid
from cosyvoice.evaluation.sources import DEFAULT_SOURCE, Audio, Sources, original_of

_REFERENCE_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Trial:
    """One sentence to speak in one voice."""

    group: str
    voice: str
    """What the voice is called in the report."""
    conditions: Any
    """What `say` takes: a name, or a cloned voice."""
    text: str
    original: str = ""
    """Name of the original speech; empty where there is none."""
    original_audio: Audio | None = None
    meant: str | None = None
    """The enrolled speaker that the voice should sound like."""


@dataclass(frozen=True)
class Plan:
    """Trials, and the embeddings [dim] of the speakers that the voices should sound like, by group."""

    trials: tuple[Trial, ...]
    enrolled: Mapping[str, Mapping[str, np.ndarray]]

    def __add__(self, other: Plan) -> Plan:
        return Plan(self.trials + other.trials, {**self.enrolled, **other.enrolled})


def plan_presets(
    voices: Sequence[str],
    sentences: Sequence[str],
    sources: Sources,
    embed: Embedder,
    named: dict[str, str] | None = None,
    group: str = "preset",
    conditions: Mapping[str, Any] | None = None,
) -> Plan:
    """Every sentence in every voice, beside the original synthesiser's speech of the same sentence.

    A voice without an original of its own is compared in words and length with the clearest one, in
    likeness with nobody.

    Args:
        voices: names to report.
        sentences: what to say.
        sources: the originals.
        embed: speaker encoder.
        named: which original belongs to which voice, where the name does not tell.
        group: what to call these voices together.
        conditions: what `say` takes for each voice; None means the names themselves.
    """
    spoken: dict[str, list[Audio | None]] = {}
    enrolled: dict[str, np.ndarray] = {}
    trials: list[Trial] = []
    for voice in voices:
        own = original_of(voice, sources.names, named)
        original = own or (DEFAULT_SOURCE if DEFAULT_SOURCE in sources.names else "")
        if original and original not in spoken:
            spoken[original] = sources.speak(original, sentences)
        audios = spoken.get(original, [None] * len(sentences))
        heard = [audio for audio in audios if audio is not None]
        if own and own not in enrolled and heard:
            enrolled[own] = centroid([embed(audio.samples, audio.sample_rate) for audio in heard])
        meant = own if own in enrolled else None
        asked = conditions[voice] if conditions else voice
        trials += [
            Trial(group, voice, asked, text, original if audio else "", audio, meant)
            for text, audio in zip(sentences, audios, strict=True)
        ]
    return Plan(tuple(trials), {group: enrolled})


def find_references(folder: Path) -> list[tuple[Path, str]]:
    """Audio files of `folder`, each with the transcript in the text file of the same name.

    Raises:
        VoiceError: the folder is missing, holds no audio, or a transcript is missing.
    """
    if not folder.is_dir():
        raise VoiceError(f"{folder} is not a folder; name one that holds NAME.wav and NAME.txt for every speaker")
    references = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in _REFERENCE_SUFFIXES):
        text = path.with_suffix(".txt")
        if not text.is_file():
            raise VoiceError(f"{path} has no transcript; write what it says into {text.name}")
        references.append((path, " ".join(text.read_text(encoding="utf-8").split())))
    if not references:
        raise VoiceError(f"{folder} holds no recording; put NAME.wav and NAME.txt there for every speaker")
    return references


def plan_references(
    tts: Speaker,
    references: Sequence[tuple[Path, str]],
    sentences: Sequence[str],
    sources: Sources,
    embed: Embedder,
) -> Plan:
    """Every sentence in a voice cloned from each reference (audio file, transcript).

    The speakers enrolled are the references themselves.
    """
    enrolled, conditions = {}, {}
    for path, transcript in references:
        enrolled[path.stem] = embed(*read_audio(path))
        conditions[path.stem] = tts.clone(path, transcript, name=path.stem)
    plan = plan_presets(list(conditions), sentences, sources, embed, group="reference", conditions=conditions)
    return Plan(tuple(replace(trial, meant=trial.voice) for trial in plan.trials), {"reference": enrolled})


def plan_held_out(tts: Speaker, speakers: Sequence[HeldOutSpeaker], embed: Embedder, folder: Path) -> Plan:
    """Clone every held-out speaker and speak the texts of some of its recordings, which are the originals.

    The references are written to `folder`, since a voice is cloned from a file.
    """
    enrolled: dict[str, np.ndarray] = {}
    trials: list[Trial] = []
    for speaker in speakers:
        path = folder / f"{speaker.name}.wav"
        write_audio(path, speaker.reference.samples, speaker.reference.sample_rate)
        voice = tts.clone(path, speaker.reference.text, name=speaker.name)
        enrolled[speaker.name] = centroid([embed(r.samples, r.sample_rate) for r in speaker.enrolment])
        trials += [
            Trial("held-out", speaker.name, voice, r.text, r.id, Audio(r.samples, r.sample_rate), speaker.name)
            for r in speaker.spoken
        ]
    return Plan(tuple(trials), {"held-out": enrolled})
