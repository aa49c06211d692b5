"""One stage's training from settings to checkpoint: it finds what it needs, claims its folder, and resumes.

A run folder is `RUNS/STAGE`. It remembers its settings and, as fingerprints, its corpus and the networks
whose outputs it learns from, so that a resumed run is the same run, and a model is never put together from
networks that do not know each other. Speech tokens and speaker embeddings are kept beside the corpus, named
after the weights that made them: another tokenizer makes other files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from cosyvoice.config.base import StrictModel
from cosyvoice.errors import ConfigError
from cosyvoice.text.phones import PhoneTokenizer
from cosyvoice.training.configuration import SETTINGS, STAGES, differences
from cosyvoice.training.features import FeatureStore, TokenStore
from cosyvoice.training.flow import FlowTask
from cosyvoice.training.llm import LLMTask
from cosyvoice.training.loop import Task, Trainer, choose_device, load_averaged
from cosyvoice.training.settings import (
    FlowSettings,
    LLMSettings,
    SpeakerSettings,
    StageSettings,
    TokenizerSettings,
    VocoderSettings,
)
from cosyvoice.training.speaker import SpeakerTask, embed_corpus, load_speaker_encoder
from cosyvoice.training.tokenizer import TokenizerTask, load_tokenizer, tokenise_corpus
from cosyvoice.training.vocoder import VocoderTask

log = logging.getLogger(__name__)

CHANGEABLE = frozenset(
    f"loop.{key}" for key in ("steps", "minutes", "device", "threads", "log_every", "validate_every", "save_minutes")
)
"""Settings that a resumed run may change: how long and where it runs, and what it reports."""
UPSTREAM = {"llm": ("tokenizer",), "flow": ("tokenizer", "speaker")}
"""The trained networks whose outputs a stage learns from."""
MODULES = {"tokenizer": "tokenizer", "speaker": "speaker_encoder", "llm": "llm", "flow": "flow", "vocoder": "vocoder"}
"""What the network that a stage is for is called in its checkpoints."""
S = TypeVar("S", bound=StrictModel)


@dataclass(frozen=True)
class Source:
    """Where a stage takes its inputs from."""

    corpus: Path
    runs: Path
    device: torch.device


def run_stage(stage: str, settings: StageSettings, corpus: Path, runs: Path) -> dict[str, float]:
    """Train `stage` in `runs/stage`, or go on where a killed run ended; returns the last validation scores.

    Features, speech tokens and speaker embeddings that are missing are computed first. A run that has reached
    its end is left as it is.

    Raises:
        ConfigError: the stage or corpus is unknown, a network that the stage learns from is not trained yet,
        sizes
            of networks do not fit each other, or the folder holds a run of other settings or another corpus.
        GenerationError: the loss diverged.
    """
    if stage not in STAGES:
        raise ConfigError(f"no stage {stage!r}: choose one of {', '.join(STAGES)}")
    if not isinstance(settings, SETTINGS[stage]):
        raise ConfigError(f"{stage} needs {SETTINGS[stage].__name__}, not {type(settings).__name__}")
    folder, source = runs / stage, Source(corpus, runs, choose_device(settings.loop.device))
    inputs = fingerprints(stage, source)
    _check_splits(corpus)
    _check_settings(folder, settings)
    _check_inputs(folder, inputs)
    # Fresh weights and dropout draw from PyTorch's own generator: seeded here, and given back as it was.
    with torch.random.fork_rng():
        torch.manual_seed(settings.loop.seed)
        task = _TASKS[stage](settings, source)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "settings.json", settings.model_dump(mode="json"))
        _write(folder / "inputs.json", inputs)
        trainer = Trainer(task, settings.loop, folder)
        if trainer.done:
            log.info("%s has reached its end at step %d", stage, trainer.step)
            return read_scores(folder)
        return trainer.run()


def read_settings(runs: Path, stage: str, kind: type[S]) -> S:
    """The settings of a run. Raises `ConfigError` where there is none."""
    path = runs / stage / "settings.json"
    if not path.exists():
        raise ConfigError(f"{path} is missing: train that stage first, with `cosyvoice train {stage}`")
    return cast(S, kind.parse(json.loads(path.read_text()), str(path)))


def read_scores(folder: Path) -> dict[str, float]:
    """The last validation scores of a run, with the step they are of; empty before the first validation."""
    path = folder / "scores.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def speech_tokens(source: Source) -> TokenStore:
    """Speech tokens of the corpus by the tokenizer of `source.runs`, computed where they are not kept yet."""

    def compute() -> TokenStore:
        settings = read_settings(source.runs, "tokenizer", TokenizerSettings)
        model = load_tokenizer(source.runs / "tokenizer", settings)
        return tokenise_corpus(model, FeatureStore(source.corpus, ("whisper", "mel")), source.device)

    return _kept("tokenizer", "tokens", source, compute)


def speaker_embeddings(source: Source) -> TokenStore:
    """Speaker embeddings of the corpus by the encoder of `source.runs`, computed where they are not kept yet."""

    def compute() -> TokenStore:
        settings = read_settings(source.runs, "speaker", SpeakerSettings)
        model = load_speaker_encoder(source.runs / "speaker", settings)
        return embed_corpus(model, FeatureStore(source.corpus, ("fbank",)), source.device)

    return _kept("speaker", "embeddings", source, compute)


def _kept(stage: str, name: str, source: Source, compute: Callable[[], TokenStore]) -> TokenStore:
    path = source.corpus / "features" / f"{name}-{weights_fingerprint(source.runs, stage)}.npz"
    if path.exists():
        kept = TokenStore.load(path)
        if all(utterance.id in kept for utterance in FeatureStore(source.corpus, ()).utterances):
            return kept
    # Building a network draws from PyTorch's generator, and a run must not depend on what was kept already.
    with torch.random.fork_rng():
        computed = compute()
    computed.save(path)
    return computed


def weights_fingerprint(runs: Path, stage: str) -> str:
    """A short hash of the averaged weights of the tokenizer or the speaker encoder."""
    weights = load_averaged(runs / stage, MODULES[stage])
    return _digest(part for key in sorted(weights) for part in (key.encode(), weights[key].numpy().tobytes()))


def fingerprints(stage: str, source: Source) -> dict[str, str]:
    """What a run of `stage` depends on besides its settings: the corpus and the networks before it."""
    utterances = FeatureStore(source.corpus, ()).utterances
    corpus = _digest(f"{utterance.id} {utterance.seconds}".encode() for utterance in utterances)
    return {"corpus": corpus} | {name: weights_fingerprint(source.runs, name) for name in UPSTREAM.get(stage, ())}


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _check_splits(corpus: Path) -> None:
    store = FeatureStore(corpus, ())
    for name in ("train", "validation"):
        if not store.split(name):
            raise ConfigError(f"{corpus} has no utterances of the {name} split: build the whole corpus first")


def _check_settings(folder: Path, settings: StrictModel) -> None:
    if not (folder / "checkpoint.pt").exists() or not (folder / "settings.json").exists():
        return
    old = read_settings(folder.parent, folder.name, type(settings))
    changed = {k: v for k, v in differences(old, settings).items() if k not in CHANGEABLE}
    if changed:
        listed = ", ".join(f"{key} is {before} there, not {now}" for key, (before, now) in changed.items())
        raise ConfigError(f"{folder} holds a run of other settings ({listed}): choose another folder or delete it")


def _check_inputs(folder: Path, wanted: dict[str, str]) -> None:
    path = folder / "inputs.json"
    if not (folder / "checkpoint.pt").exists() or not path.exists():
        return
    old = json.loads(path.read_text())
    changed = [name for name, value in wanted.items() if old.get(name, value) != value]
    if changed:
        raise ConfigError(
            f"{folder} holds a run that began with another {' and another '.join(changed)}: "
            "choose another folder or delete it"
        )


def _write(path: Path, data: Any) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(data, indent=1))
    partial.rename(path)


def _make_tokenizer(settings: TokenizerSettings, source: Source) -> Task:
    return TokenizerTask(settings, FeatureStore(source.corpus, ("whisper", "mel", "f0")))


def _make_speaker(settings: SpeakerSettings, source: Source) -> Task:
    return SpeakerTask(settings, FeatureStore(source.corpus, ("fbank",)))


def _make_llm(settings: LLMSettings, source: Source) -> Task:
    before = read_settings(source.runs, "tokenizer", TokenizerSettings)
    model, vocabulary = settings.model, PhoneTokenizer().vocab_size
    require_equal(
        "llm.model.speech_token_size",
        model.speech_token_size,
        "the number of the tokenizer's codes",
        codes(before),
    )
    if model.qwen.vocab_size < vocabulary:
        raise ConfigError(
            f"llm.model.qwen.vocab_size is {model.qwen.vocab_size}: the phones need {vocabulary}, give at least that"
        )
    if settings.guide_weight and settings.guide_layer >= model.qwen.num_layers:
        raise ConfigError(
            f"llm.guide_layer is {settings.guide_layer}: with {model.qwen.num_layers} layers, "
            f"the last one is {model.qwen.num_layers - 1}"
        )
    recogniser = load_tokenizer(source.runs / "tokenizer", before)
    return LLMTask(settings, FeatureStore(source.corpus, ()), speech_tokens(source), recogniser)


def _make_flow(settings: FlowSettings, source: Source) -> Task:
    tokenizer = read_settings(source.runs, "tokenizer", TokenizerSettings)
    speaker = read_settings(source.runs, "speaker", SpeakerSettings)
    require_equal(
        "flow.model.vocab_size",
        settings.model.vocab_size,
        "the number of the tokenizer's codes",
        codes(tokenizer),
    )
    require_equal(
        "flow.model.speaker_embedding_dim",
        settings.model.speaker_embedding_dim,
        "the speaker encoder's embedding_dim",
        speaker.model.embedding_dim,
    )
    store = FeatureStore(source.corpus, ("mel",))
    return FlowTask(settings, store, speech_tokens(source), speaker_embeddings(source))


def _make_vocoder(settings: VocoderSettings, source: Source) -> Task:
    task = VocoderTask(settings, FeatureStore(source.corpus, ("wave", "mel", "f0")))
    if not task.items:
        raise ConfigError(
            f"no utterance of {source.corpus} is as long as vocoder.segment_frames={settings.segment_frames} "
            "(20 ms each) and the look-ahead: lower it"
        )
    return task


_TASKS: dict[str, Callable[[Any, Source], Task]] = {
    "tokenizer": _make_tokenizer,
    "speaker": _make_speaker,
    "llm": _make_llm,
    "flow": _make_flow,
    "vocoder": _make_vocoder,
}


def codes(settings: TokenizerSettings) -> int:
    """Number of speech tokens that a tokenizer has."""
    return int(settings.model.fsq_levels**settings.model.fsq_channels)


def require_equal(name: str, value: int, other_name: str, other: int) -> None:
    """Raises `ConfigError` unless two sizes that belong together are equal."""
    if value != other:
        raise ConfigError(f"{name} is {value}, but {other_name} is {other}: set it to {other}")
