"""Parity of the NumPy audio features with the recorded ones of `wav/feat_24k.wav` and `wav/stereo_44k.wav`.

Each feature is computed from our own resampled audio, so a row contains every step from the file on. Options
are read from the description of the tensor. The features of V1 and V2 are here too: the extractors differ in
options only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from cosyvoice.audio.fbank import FBANK_SAMPLE_RATE, KaldiFbank
from cosyvoice.audio.io import read_audio
from cosyvoice.audio.mel import WHISPER_SAMPLE_RATE, LogMel, WhisperLogMel
from cosyvoice.audio.pitch import extract_f0
from cosyvoice.audio.resample import sinc_resample
from cosyvoice.config.model import MelConfig
from cosyvoice.errors import MissingDependencyError
from cosyvoice.parity.golden import F0_TOLERANCE, TOLERANCE, ParityFolder, Row, Topic, compare

FBANK_TOLERANCE = 1e-3
"""Tolerance of log filterbank energies. The record was computed in single precision: in quiet low bins, of
which pre-emphasis leaves little, its rounding moves the logarithm by several 1e-4, ours being in double."""
_STAGE = "features"
_OPTIONS = re.compile(r"\{.*?\}")


def check(folder: ParityFolder, generation: str = "v3") -> Iterator[Row]:
    """One row for every tensor of the topic `features`; the topic is the same for every generation."""
    topic = folder.topic(_STAGE)
    features = _Features(folder, topic)
    for name, recorded in topic.tensors.items():
        tolerance = TOLERANCE
        if name.startswith("f0"):
            tolerance = F0_TOLERANCE
        elif "fbank" in name:
            tolerance = FBANK_TOLERANCE
        try:
            ours = features.compute(name, recorded)
        except MissingDependencyError as error:
            yield Row(_STAGE, name, float("inf"), tolerance, str(error))
            continue
        if ours is None:
            yield Row(_STAGE, name, float("inf"), tolerance, "nothing reproduces this")
            continue
        batched = ours[None] if ours.ndim + 1 == recorded.ndim else ours
        yield compare(_STAGE, name, batched, recorded, tolerance)


class _Features:
    """Our version of each recorded feature, by its name."""

    def __init__(self, folder: ParityFolder, topic: Topic) -> None:
        self.folder = folder
        self.descriptions: dict[str, Any] = topic.meta["tensors"]
        self.samples, self.rate = read_audio(folder.root / "wav" / "feat_24k.wav")

    def compute(self, name: str, recorded: np.ndarray) -> np.ndarray | None:
        """The feature, None where the name is unknown."""
        if name == "wav16":
            return self.at(16000)
        if name == "wav22_head":
            return self.at(22050)[: recorded.shape[-1]]
        if name == "stereo_44k_to_16k":
            samples, rate = read_audio(self.folder.root / "wav" / "stereo_44k.wav")
            return sinc_resample(samples, rate, 16000)
        if name == "whisper_mel128":
            return WhisperLogMel(recorded.shape[1])(self.at(WHISPER_SAMPLE_RATE)).T
        if name.startswith("kaldi_fbank"):
            fbank = KaldiFbank(recorded.shape[1])
            return fbank(self.at(FBANK_SAMPLE_RATE), subtract_mean=name.endswith("minus_mean"))
        if name.startswith("mel_"):
            options = self.mel_options(name)
            # One record shows what V1 does to a prompt: its 22.05 kHz extractor is fed 24 kHz audio.
            rate = self.rate if name.endswith("on_24k_wave") else options.sample_rate
            return LogMel(options)(self.at(rate)).T
        if name.startswith("f0_"):
            mel = next(key for key in self.descriptions if re.fullmatch(f"mel_{name[3:]}_[0-9]+k", key))
            options = self.mel_options(mel)
            return extract_f0(self.at(options.sample_rate), options.sample_rate, options.hop_size, len(recorded))
        return None

    def at(self, rate: int) -> np.ndarray:
        return sinc_resample(self.samples, self.rate, rate)

    def mel_options(self, name: str) -> MelConfig:
        """Options of a mel record, which its description holds as JSON."""
        found = _OPTIONS.search(self.descriptions[name]["desc"])
        options = json.loads(found[0]) if found else {}
        return MelConfig(
            sample_rate=options["sampling_rate"],
            n_fft=options["n_fft"],
            hop_size=options["hop_size"],
            win_size=options["win_size"],
            n_mels=options["num_mels"],
            fmin=options["fmin"],
            fmax=options["fmax"],
        )
