from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cosyvoice import DEFAULT_MODEL
from cosyvoice.errors import ConfigError
from cosyvoice.text.phone_frontend import PhoneFrontend
from cosyvoice.training import presets
from cosyvoice.training.corpus.synthesisers import BASE_VOICES
from cosyvoice.training.features import Utterance
from cosyvoice.voice.voice import Voice

FIRST_PRESET = DEFAULT_MODEL / "voices" / "ryan.safetensors"
VOICE = next(voice for voice in BASE_VOICES if voice.name == "rms")


def utterance(
    number: int,
    speaker: str = "rms",
    seconds: float = 3.9,
    text: str = "Ats.",
    symbols: tuple[str, ...] | None = None,
) -> Utterance:
    phones = ("pau", "AA1", "T", "S", "pau")
    symbols = tuple(PhoneFrontend().phones(text)) if symbols is None else symbols
    return Utterance(f"u{number}", "train", speaker, "rms", text, symbols, phones, (1.0,) * 5, seconds)


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


def test_the_first_candidate_is_the_utterance_that_is_heard_best():
    store = Store(*(utterance(i) for i in range(4)))
    assert presets.reference_candidates(Recogniser(2), store, VOICE) == [2, 0, 1, 3]


def test_what_the_synthesiser_read_in_another_way_is_no_reference():
    spoken = tuple(PhoneFrontend().phones("One thousand four hundred women."))
    store = Store(utterance(0, text="1400 women.", symbols=spoken), utterance(1))
    assert presets.reference_candidates(Recogniser(0), store, VOICE) == [1]


def test_the_voice_that_speaks_best_becomes_the_preset(tmp_path, monkeypatch):
    voices = {item: Voice.load(FIRST_PRESET) for item in (3, 5)}
    monkeypatch.setattr(presets, "FeatureStore", lambda *_: None)
    monkeypatch.setattr(presets, "load_native_model", lambda _: None)
    monkeypatch.setattr(presets, "TTS", lambda *_: None)
    monkeypatch.setattr(presets, "BASE_VOICES", [VOICE])
    monkeypatch.setattr(presets, "reference_candidates", lambda *_: [3, 5])
    monkeypatch.setattr(presets, "_preset", lambda tts, store, base, item: replace(voices[item], description=str(item)))
    monkeypatch.setattr(presets, "_Rehearsal", lambda *_: lambda voice: {"3": 0.2, "5": 0.1}[voice.description])
    [written] = presets.make_presets(tmp_path, Recogniser(0), tmp_path)
    assert Voice.load(written).description == "5"


def test_warped_speakers_and_other_lengths_are_no_references():
    lengths = [utterance(i, seconds=seconds) for i, seconds in enumerate((9.0, 1.9, 4.1))]
    store = Store(*lengths, utterance(3, speaker="train-0000-rms"))
    with pytest.raises(ConfigError, match="no utterance of 'rms'"):
        presets.reference_candidates(Recogniser(0), store, VOICE)


def test_presets_are_men_and_women():
    genders = [voice.gender for voice in BASE_VOICES if voice.name in presets.NAMES]
    assert genders.count("male") >= 2 and genders.count("female") >= 2
