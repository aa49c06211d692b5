"""Speech recognition for scoring: a small protocol, and pocketsphinx, whose wheel brings an English model.

pocketsphinx is small, runs on any processor at about four times real time on one core, and reads clear
synthetic speech with a few per cent of errors. Scores of different recognisers must not be compared.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any, Protocol

import numpy as np

from cosyvoice.audio.resample import resample
from cosyvoice.errors import MissingDependencyError

_SAMPLE_RATE = 16000
_SHORTEST_SECONDS = 0.1
_SILENT_PEAK = 1e-3


class Recogniser(Protocol):
    """Anything that writes down English speech."""

    @property
    def name(self) -> str:
        """Name and version, for the report."""
        ...

    def transcribe(self, samples: np.ndarray, sample_rate: int) -> str:
        """Words heard in mono float32 `samples` [time]; empty where nothing was heard."""
        ...


class PocketSphinx:
    """pocketsphinx with the English model and language model of its wheel. One thread."""

    def __init__(self) -> None:
        """Raises MissingDependencyError where pocketsphinx is not installed."""
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise MissingDependencyError("recognition needs pocketsphinx: pip install 'cosyvoice[evaluate]'") from error
        self.name = f"pocketsphinx {metadata.version('pocketsphinx')} en-us"
        self._decoder: Any = Decoder(samprate=float(_SAMPLE_RATE), loglevel="FATAL")

    def transcribe(self, samples: np.ndarray, sample_rate: int) -> str:
        """See `Recogniser`. The result does not depend on what was transcribed before."""
        samples = resample(samples, sample_rate, _SAMPLE_RATE)
        # In digital silence the decoder hears short words.
        if len(samples) < _SHORTEST_SECONDS * _SAMPLE_RATE or np.abs(samples).max() < _SILENT_PEAK:
            return ""
        pcm = (np.clip(samples, -1.0, 1.0) * 32767).astype(np.int16)
        # The noise tracker would carry over from one utterance to the next, so that scores depend on
        # their order.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        try:
            self._decoder.process_raw(pcm.tobytes(), full_utt=True)
        finally:
            self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis is not None else ""
