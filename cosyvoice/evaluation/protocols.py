"""What the evaluation needs of a text-to-speech system: a few members, so that any system can be measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class SpeechReport(Protocol):
    """How a text was spoken."""

    @property
    def rtf(self) -> float: ...
    @property
    def time_to_first_audio(self) -> float: ...
    @property
    def retries(self) -> int: ...


class Speech(Protocol):
    """A spoken text: mono float32 samples [time]."""

    @property
    def samples(self) -> np.ndarray: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def report(self) -> SpeechReport: ...


class Speaker(Protocol):
    """What the evaluation needs of a text-to-speech system; `cosyvoice.TTS` is one."""

    def voices(self) -> list[str]: ...
    def clone(self, reference: Path, transcript: str, *, name: str) -> Any: ...
    def say(self, text: str, voice: Any, *, seed: int) -> Speech: ...


Embedder = Callable[[np.ndarray, int], np.ndarray]
"""Samples [time] and their rate to an embedding [dim] of length 1."""
