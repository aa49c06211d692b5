"""Preset voices of a model from its corpus: of a base voice, the utterance that the model itself hears best."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from cosyvoice.engine.pipeline import TTS
from cosyvoice.errors import ConfigError
from cosyvoice.reference.loading import load_reference_model
from cosyvoice.speech_tokenizer.model import SpeechTokenizer
from cosyvoice.text.english_numbers import EnglishNumbers
from cosyvoice.text.phone_classes import PAUSE, phone_class
from cosyvoice.training.corpus.synthesisers import BASE_VOICES, BaseVoice
from cosyvoice.training.edit_distance import edit_distance
from cosyvoice.training.features import FeatureStore
from cosyvoice.voice.store import SUFFIX, VoiceStore

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
CANDIDATES = 24


def _phone_errors(recogniser: SpeechTokenizer, store: FeatureStore, item: int) -> float:
    """Share of the phones of utterance `item` that the recogniser gets wrong."""
    feats = torch.from_numpy(store.get("whisper", item).astype(np.float32)).T[None]
    heard = recogniser.recognise(feats, torch.tensor([feats.shape[2]]))[0]
    spoken = [phone_class(p) + 1 for p in store.utterances[item].phones if p != PAUSE]
    return edit_distance(spoken, [c for c in heard if c != 1]) / len(spoken)


def choose_reference(recogniser: SpeechTokenizer, store: FeatureStore, voice: BaseVoice) -> int:
    """The training utterance of `voice`, unwarped, with the fewest phone errors. Raises `ConfigError` without any."""
    fitting = [
        i
        for i in store.split("train")
        if store.utterances[i].speaker == voice.name and _fits(store.utterances[i].seconds)
    ]
    if not fitting:
        length = f"{SHORTEST:g} to {LONGEST:g} s"
        raise ConfigError(f"the corpus has no utterance of {voice.name!r} of a suitable length ({length})")
    return min(fitting[:CANDIDATES], key=lambda i: _phone_errors(recogniser, store, i))


def _fits(seconds: float) -> bool:
    return SHORTEST <= seconds <= LONGEST and seconds % CHUNK_SECONDS >= LEAST_FILLED * CHUNK_SECONDS


def make_presets(model_dir: Path, recogniser: SpeechTokenizer, corpus: Path) -> list[Path]:
    """Write `voices/NAME.safetensors` into `model_dir` for every base voice in `NAMES`; returns the files."""
    store = FeatureStore(corpus, ("wave", "whisper"))
    tts = TTS(load_reference_model(model_dir), VoiceStore(presets=model_dir / "voices"))
    (model_dir / "voices").mkdir(exist_ok=True)
    written = []
    for voice in (base for base in BASE_VOICES if base.name in NAMES):
        item = choose_reference(recogniser, store, voice)
        utterance = store.utterances[item]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{utterance.id}.wav"
            soundfile.write(path, store.samples(item), 24000)
            # Numbers are spelled out once, here: reading digits costs seconds when a process first does it.
            transcript = " ".join(EnglishNumbers().expand(utterance.text).split())
            cloned = tts.clone(path, transcript, name=NAMES[voice.name])
        preset = replace(
            cloned,
            gender=voice.gender,
            description=f"{voice.name} of {voice.engine} ({voice.identifier})",
            consent=f"synthetic voice: {voice.licence}",
            provenance=f"synthesised by {voice.engine} ({voice.identifier}), corpus utterance {utterance.id}",
        )
        written.append(preset.save(model_dir / "voices" / f"{preset.name}{SUFFIX}"))
    return written
