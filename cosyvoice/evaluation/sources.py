"""The original synthesisers' speech of the same sentences: what the trained voices are measured against.

The model learned from Debian's flite and festival. Where they are installed, every sentence is also spoken
by them, so that a score can be read beside its own ceiling; where they are not, the comparison is left out
and `missing` says why.
"""

from __future__ import annotations

import shutil
import subprocess
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cosyvoice.errors import MissingDependencyError
from cosyvoice.training.corpus.synthesisers import BASE_VOICES, BaseVoice, Flite, Spoken, festival_speak

DEFAULT_SOURCE = "rms"
"""The clearest base voice: what a voice is compared with that has no original of its own."""


@dataclass(frozen=True)
class Audio:
    """Mono samples [time] in [-1, 1] and their rate (Hz)."""

    samples: np.ndarray
    sample_rate: int


class Sources(Protocol):
    """Speech of the originals by name."""

    names: tuple[str, ...]
    """Names of the originals that can speak here; empty where none can."""
    missing: str
    """What is missing and how to get it; empty where all can speak."""

    def speak(self, name: str, texts: Sequence[str]) -> list[Audio | None]:
        """Each text spoken by the original `name`; None where it cannot say the text."""
        ...


class DebianSources:
    """flite and festival, as far as they are installed."""

    def __init__(self) -> None:
        lacking: list[str] = []
        self._flite: Flite | None = None
        try:
            self._flite = Flite()
        except MissingDependencyError:
            lacking.append("flite")
        if shutil.which("festival") is None:
            lacking.append("festival festvox-us-slt-hts festvox-kallpc16k festvox-kdlpc16k")
        engines = {"flite": self._flite is not None, "festival": shutil.which("festival") is not None}
        self._voices = {voice.name: voice for voice in BASE_VOICES if engines[voice.engine]}
        self.names = tuple(self._voices)
        self.missing = (
            f"not all original synthesisers are installed: apt-get install {' '.join(lacking)}" if lacking else ""
        )

    def speak(self, name: str, texts: Sequence[str]) -> list[Audio | None]:
        """See `Sources`."""
        voice = self._voices[name]
        plain = [_ascii(text) for text in texts]
        if voice.engine == "flite":
            return [self._speak_flite(voice, text) for text in plain]
        spoken = _speak_festival(voice, plain)
        if spoken is None:
            # One sentence that festival's words and segments disagree on spoils the batch: speak one by one.
            spoken = [one[0] if (one := _speak_festival(voice, [text])) else None for text in plain]
        return [_audio(item) for item in spoken]

    def _speak_flite(self, voice: BaseVoice, text: str) -> Audio | None:
        if self._flite is None:
            return None
        try:
            return _audio(self._flite.speak(voice.identifier, text))
        except (ValueError, OSError):
            return None


def _speak_festival(voice: BaseVoice, texts: list[str]) -> list[Spoken | None] | None:
    try:
        spoken = festival_speak(voice.identifier, texts)
    except (ValueError, OSError, IndexError, subprocess.CalledProcessError):
        return None
    return list(spoken) if len(spoken) == len(texts) else None


def _audio(spoken: Spoken | None) -> Audio | None:
    return None if spoken is None else Audio(spoken.samples, spoken.sample_rate)


def _ascii(text: str) -> str:
    """`text` in the characters that the synthesisers know."""
    text = text.replace("’", "'").replace("‘", "'")
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def original_of(voice: str, names: Sequence[str], named: dict[str, str] | None = None) -> str | None:
    """The original that a voice was learned from: as `named`, else the one whose name is in the voice's name.

    `rms`, `en-rms` and `us_rms` belong to `rms`; of several the longest name wins. None where there is none.
    """
    if named and voice in named:
        return named[voice]
    padded = f"_{voice.lower().replace('-', '_').replace('.', '_').replace(' ', '_')}_"
    fitting = [name for name in names if f"_{name}_" in padded]
    return max(fitting, key=len) if fitting else None
