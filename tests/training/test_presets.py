from __future__ import annotations

import numpy as np
import pytest

from cosyvoice.errors import ConfigError
from cosyvoice.training import presets
from cosyvoice.training.corpus.synthesisers import BASE_VOICES
from cosyvoice.training.features import Utterance

VOICE = next(voice for voice in BASE_VOICES if voice.name == "rms")


def utterance(number: int, speaker: str = "rms", seconds: float = 3.9) -> Utterance:
    phones = ("pau", "AA1", "T", "S", "pau")
    return Utterance(f"u{number}", "train", speaker, "rms", "Ats.", phones[1:4], phones, (1.0,) * 5, seconds)


class Store:
    """Utterances whose feature is their own number."""

    def __init__(self, *utterances: Utterance) -> None:
        self.utterances = list(utterances)

    def split(self, name: str) -> list[int]:
        return [i for i, u in enumerate(self.utterances) if u.split == name]

    def get(self, kind: str, index: int) -> np.ndarray:
        return np.full((8, 2), float(index), np.float32)


class Recogniser:
    """Hears everything right in utterance `best`, and nothing in others."""

    def __init__(self, best: int) -> None:
        self.best = best

    def recognise(self, feats, lengths):
        heard = [presets.phone_class(p) + 1 for p in ("AA1", "T", "S")]
        return [[1, *heard] if float(feats[0, 0, 0]) == self.best else []]


def test_the_reference_is_the_utterance_that_is_heard_best():
    store = Store(*(utterance(i) for i in range(4)))
    assert presets.choose_reference(Recogniser(2), store, VOICE) == 2


def test_warped_speakers_and_other_lengths_are_no_references():
    lengths = [utterance(i, seconds=seconds) for i, seconds in enumerate((9.0, 1.9, 4.1))]
    store = Store(*lengths, utterance(3, speaker="train-0000-rms"))
    with pytest.raises(ConfigError, match="no utterance of 'rms'"):
        presets.choose_reference(Recogniser(0), store, VOICE)


def test_presets_are_men_and_women():
    genders = [voice.gender for voice in BASE_VOICES if voice.name in presets.NAMES]
    assert genders.count("male") >= 2 and genders.count("female") >= 2
