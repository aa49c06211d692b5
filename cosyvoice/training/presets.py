"""Preset voices of a model from its corpus: of a base voice, the utterance with which the model itself speaks best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from cosyvoice.audio.mel import WhisperLogMel
from cosyvoice.audio.resample import sinc_resample
from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.prompt_encoders import PROMPT_SAMPLE_RATE
from cosyvoice.errors import ConfigError
from cosyvoice.native.loading import load_native_model
from cosyvoice.speech_tokenizer.model import SpeechTokenizer
from cosyvoice.text.english_numbers import EnglishNumbers
from cosyvoice.text.phone_classes import PAUSE, phone_class
from cosyvoice.text.phone_frontend import PhoneFrontend
from cosyvoice.training.corpus.synthesisers import BASE_VOICES, BaseVoice
from cosyvoice.training.edit_distance import edit_distance
from cosyvoice.training.features import FeatureStore
from cosyvoice.voice.store import SUFFIX, VoiceStore
from cosyvoice.voice.voice import Voice

NAMES = {
    "rms": "ryan",
    "awb": "angus",
    "kal16": "karl",
    "slt": "sally",
    "slt_hts": "helen",
}
"""What the presets are called, by base voice. The other base voices are for variety in training only."""
SHORTEST, LONGEST = 3.0, 5.0
"""Seconds of a preset's reference: enough for the voice, and little for every request to attend to."""
CHUNK_SECONDS = 1.0
"""Speech of an attention chunk of the flow. The first chunk of a stream also fills up the last one of the reference,
so a reference that nearly fills it lets a stream begin at once."""
LEAST_FILLED = 0.86
CANDIDATES = 48
"""Utterances of a voice that are listened to."""
TRIED, REHEARSED = 5, 6
"""Of them, those that the model speaks with, and the sentences that it speaks."""


def _phone_errors(recogniser: SpeechTokenizer, feats: np.ndarray, spoken: Sequence[str]) -> float:
    """Share of the phones `spoken` that the recogniser gets wrong in `feats` [frames, n_mels]."""
    x = torch.from_numpy(feats.astype(np.float32)).T[None]
    heard = recogniser.recognise(x, torch.tensor([x.shape[2]]))[0]
    classes = [phone_class(p) + 1 for p in spoken]
    return edit_distance(classes, [c for c in heard if c != 1]) / len(classes)


def reference_candidates(recogniser: SpeechTokenizer, store: FeatureStore, voice: BaseVoice) -> list[int]:
    """Training utterances of `voice`, unwarped, that the recogniser hears best, the best one first.

    Their text is read by our frontend as the synthesiser spoke it: a number that one of them reads in another way would
    be a transcript that does not fit, and the model would leave out words ever after. Raises `ConfigError` without any.
    """
    frontend = PhoneFrontend()
    fitting = []
    for i in store.split("train"):
        utterance = store.utterances[i]
        if utterance.speaker != voice.name or not _fits(utterance.seconds):
            continue
        if frontend.phones(_transcript(utterance.text)) == list(utterance.symbols):
            fitting.append(i)
        if len(fitting) == CANDIDATES:
            break
    if not fitting:
        length = f"{SHORTEST:g} to {LONGEST:g} s"
        raise ConfigError(f"the corpus has no utterance of {voice.name!r} of a suitable length ({length})")

    def errors(item: int) -> float:
        phones = [p for p in store.utterances[item].phones if p != PAUSE]
        return _phone_errors(recogniser, store.get("whisper", item), phones)

    return sorted(fitting, key=errors)[:TRIED]


def _transcript(text: str) -> str:
    """Numbers are spelled out once, here: a voice then reads the same whatever reads the text later."""
    return " ".join(EnglishNumbers().expand(text).split())


class _Rehearsal:
    """How well a voice speaks: the phone errors of sentences that no training has heard."""

    def __init__(self, tts: TTS, recogniser: SpeechTokenizer, store: FeatureStore) -> None:
        self._tts, self._recogniser = tts, recogniser
        self._features = WhisperLogMel()
        self._frontend = PhoneFrontend()
        texts = dict.fromkeys(store.utterances[i].text for i in store.split("validation"))
        self._texts = [text for text in texts if not any(mark.isdigit() for mark in text)][:REHEARSED]

    def __call__(self, voice: Voice) -> float:
        errors = []
        for text in self._texts:
            speech = self._tts.say(text, voice, seed=1)
            feats = self._features(sinc_resample(speech.samples, speech.sample_rate, PROMPT_SAMPLE_RATE))
            phones = [phone for word in self._frontend.spoken_words(text) for phone in word.phones]
            errors.append(_phone_errors(self._recogniser, feats, phones))
        return float(np.mean(errors))


def _fits(seconds: float) -> bool:
    return SHORTEST <= seconds <= LONGEST and seconds % CHUNK_SECONDS >= LEAST_FILLED * CHUNK_SECONDS


def make_presets(model_dir: Path, recogniser: SpeechTokenizer, corpus: Path) -> list[Path]:
    """Write `voices/NAME.safetensors` into `model_dir` for every base voice in `NAMES`; returns the files.

    Of the candidates of a voice it is the one with which the model speaks best.
    """
    store = FeatureStore(corpus, ("wave", "whisper"))
    tts = TTS(load_native_model(model_dir), VoiceStore(presets=model_dir / "voices"))
    (model_dir / "voices").mkdir(exist_ok=True)
    rehearse = _Rehearsal(tts, recogniser, store)
    written = []
    for base in track([base for base in BASE_VOICES if base.name in NAMES], description="presets"):
        tried = [_preset(tts, store, base, item) for item in reference_candidates(recogniser, store, base)]
        preset = min(tried, key=rehearse) if len(tried) > 1 else tried[0]
        written.append(preset.save(model_dir / "voices" / f"{preset.name}{SUFFIX}"))
    return written


def _preset(tts: TTS, store: FeatureStore, base: BaseVoice, item: int) -> Voice:
    """The voice `base`, cloned from utterance `item`."""
    utterance = store.utterances[item]
    cloned = tts.clone((store.samples(item), 24000), _transcript(utterance.text), name=NAMES[base.name])
    return replace(
        cloned,
        gender=base.gender,
        description=f"{base.name} of {base.engine} ({base.identifier})",
        consent=f"synthetic voice: {base.licence}",
        provenance=f"synthesised by {base.engine} ({base.identifier}), corpus utterance {utterance.id}",
    )
