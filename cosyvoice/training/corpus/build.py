"""Building the corpus: a plan drawn from a seed, blocks spoken in parallel, one Parquet shard a block.

The plan alone decides what every shard holds, so the same seed gives the same corpus, a killed run resumes by
writing the shards that are missing, and shards can be made in any order.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import soxr
from rich.progress import track

from cosyvoice.errors import ConfigError
from cosyvoice.training.corpus.resynthesis import Warp, resynthesise
from cosyvoice.training.corpus.sentences import SPLITS, sentence_pool
from cosyvoice.training.corpus.synthesisers import (
    BASE_VOICES,
    PAUSE,
    BaseVoice,
    Flite,
    Spoken,
    festival_speak,
    require_synthesisers,
)
from cosyvoice.training.settings import CorpusSettings

SAMPLE_RATE = 24000
HOP = 480
EDGE = 0.09
"""Silence (s) kept before the first and behind the last phone."""


@dataclass(frozen=True)
class Speaker:
    """A speaker of the corpus."""

    name: str
    voice: BaseVoice
    warp: Warp
    split: str


@dataclass(frozen=True)
class Block:
    """The content of one shard."""

    name: str
    speaker: Speaker
    texts: tuple[str, ...]
    seed: int


def _random_speaker(name: str, voice: BaseVoice, split: str, rng: np.random.Generator) -> Speaker:
    low, high = (-0.25, 0.55) if voice.gender == "male" else (-0.5, 0.2)
    octave = rng.uniform(low, high)
    # Higher voices belong to shorter vocal tracts: the warp follows F0 in part, so that speakers sound human.
    envelope = 1.0 + 0.12 * octave + rng.uniform(-0.06, 0.06)
    warp = Warp(f0=float(2**octave), envelope=float(np.clip(envelope, 0.9, 1.13)), rate=float(rng.uniform(0.92, 1.12)))
    return Speaker(name, voice, warp, split)


def make_plan(settings: CorpusSettings, excluded: Collection[str] = ()) -> list[Block]:
    """All blocks of the corpus, in the order in which they are built (shuffled, so that a part is representative).

    None of the `excluded` sentences is spoken.
    """
    pool = sentence_pool(settings.seed, settings.sentences, settings.shares, excluded)
    cursor = dict.fromkeys(SPLITS, 0)
    rng = np.random.default_rng([settings.seed, 2])
    wanted: list[tuple[Speaker, int]] = []
    sources = [voice for k in range(max(v.share for v in BASE_VOICES)) for voice in BASE_VOICES if voice.share > k]
    for voice in BASE_VOICES:
        base = Speaker(voice.name, voice, Warp(), "train")
        wanted.append((base, settings.base_sentences * voice.share))
        wanted.append((Speaker(voice.name, voice, Warp(), "validation"), settings.held_out_sentences))
    groups = (
        ("train", settings.speakers, settings.speaker_sentences),
        ("validation", settings.validation_speakers, settings.held_out_sentences),
        ("test", settings.test_speakers, settings.held_out_sentences),
    )
    for split, count, sentences in groups:
        for i in range(count):
            voice = sources[i % len(sources)]
            wanted.append((_random_speaker(f"{split}-{i:04d}-{voice.name}", voice, split, rng), sentences))
    blocks = []
    for speaker, count in wanted:
        texts = pool[speaker.split]
        if not texts:
            raise ConfigError(f"no sentences for the {speaker.split} split: ask for more than {settings.sentences}")
        # Sentences are used once while they last: the second round begins where the first began.
        chosen = [texts[(cursor[speaker.split] + k) % len(texts)] for k in range(count)]
        cursor[speaker.split] += count
        for start in range(0, count, settings.block):
            name = f"{speaker.split}-{speaker.name.removeprefix(speaker.split + '-')}-{start:05d}"
            seed = int(rng.integers(2**31))
            blocks.append(Block(name, speaker, tuple(chosen[start : start + settings.block]), seed))
    return [blocks[i] for i in rng.permutation(len(blocks))]


def _speak(block: Block, flite: Flite, rng: np.random.Generator) -> list[tuple[str, Spoken]]:
    """Speak a block's sentences; base voices vary in rate by themselves."""
    voice = block.speaker.voice
    stretch = float(rng.uniform(0.92, 1.1))
    if voice.engine == "festival":
        return list(zip(block.texts, festival_speak(voice.identifier, list(block.texts), stretch), strict=True))
    return [(text, flite.speak(voice.identifier, text, stretch)) for text in block.texts]


def _utterance(text: str, spoken: Spoken, block: Block, number: int, rng: np.random.Generator) -> dict[str, Any] | None:
    phones = [(name, end) for name, end in spoken.segments if name != PAUSE]
    if len(phones) < 4:
        return None
    samples, f0 = resynthesise(spoken.samples, spoken.sample_rate, block.speaker.warp)
    rate = block.speaker.warp.rate
    segments = [(name, end / rate) for name, end in spoken.segments]
    begin = segments[0][1] if segments[0][0] == PAUSE else 0.0
    finish = segments[-2][1] if segments[-1][0] == PAUSE else segments[-1][1]
    begin, finish = max(0.0, begin - EDGE), min(len(samples) / spoken.sample_rate, finish + EDGE)
    samples = samples[int(begin * spoken.sample_rate) : int(finish * spoken.sample_rate)]
    samples = soxr.resample(samples, spoken.sample_rate, SAMPLE_RATE).astype(np.float32)
    level = 10 ** (rng.uniform(-4, 2) / 20)
    samples = samples * (0.6 * level / max(1e-3, float(np.abs(samples).max())))
    frames = len(samples) // HOP
    samples = samples[: frames * HOP]
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return {
        "id": f"{block.name}-{number:03d}",
        "split": block.speaker.split,
        "speaker": block.speaker.name,
        "voice": block.speaker.voice.name,
        "text": text,
        "symbols": spoken.symbols,
        "phones": [name for name, _ in segments],
        "phone_ends": [float(np.clip(end - begin, 0.0, frames * HOP / SAMPLE_RATE)) for _, end in segments],
        "samples": frames * HOP,
        "f0": f0.at(begin + (np.arange(frames) * HOP + HOP / 2) / SAMPLE_RATE),
        "flac": encoded.getvalue(),
    }


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("speaker", pa.string()),
        ("voice", pa.string()),
        ("text", pa.string()),
        ("symbols", pa.list_(pa.string())),
        ("phones", pa.list_(pa.string())),
        ("phone_ends", pa.list_(pa.float32())),
        ("samples", pa.int32()),
        ("f0", pa.list_(pa.float32())),
        ("flac", pa.binary()),
    ],
    metadata={"sample_rate": str(SAMPLE_RATE), "hop": str(HOP)},
)

_flite: list[Flite] = []


def _start_worker() -> None:
    # One library instance a worker process: its start-up costs as much as a sentence.
    _flite.append(Flite())


def _build_block(job: tuple[Block, Path]) -> float:
    block, path = job
    rng = np.random.default_rng(block.seed)
    rows = []
    for number, (text, spoken) in enumerate(_speak(block, _flite[0], rng)):
        row = _utterance(text, spoken, block, number, rng)
        if row is not None:
            rows.append(row)
    partial = path.with_suffix(f".partial-{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial)
    partial.rename(path)
    return sum(row["samples"] for row in rows) / SAMPLE_RATE


def build_corpus(out: Path, settings: CorpusSettings, workers: int = 2, excluded: Collection[str] = ()) -> float:
    """Write the corpus into `out`, as `NAME.parquet` shards with `settings.json` and `speakers.json`.

    None of the `excluded` sentences is spoken: the model is judged by them.
    Shards that exist are kept, so a run that was killed resumes. Returns the hours of speech that this call added.
    Raises `ConfigError` where `out` holds a corpus of other settings, `MissingDependencyError` without synthesisers.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = out / "settings.json"
    wanted = json.dumps(settings.model_dump(mode="json"), indent=1)
    if record.exists() and record.read_text() != wanted:
        raise ConfigError(f"{out} holds a corpus of other settings: choose another folder or delete it")
    blocks = make_plan(settings, excluded)
    record.write_text(wanted)
    speakers = {b.speaker.name: {"voice": b.speaker.voice.name, **asdict(b.speaker.warp)} for b in blocks}
    (out / "speakers.json").write_text(json.dumps(speakers, indent=1))
    jobs = [(block, out / f"{block.name}.parquet") for block in blocks]
    jobs = [job for job in jobs if not job[1].exists()]
    if not jobs:
        return 0.0
    # A worker that cannot start is replaced for ever: what is missing has to show here.
    require_synthesisers()
    seconds = 0.0
    with multiprocessing.get_context("spawn").Pool(workers, _start_worker) as pool:
        for added in track(pool.imap(_build_block, jobs), total=len(jobs), description="corpus"):
            seconds += added
    for stray in out.glob("*.partial-*"):
        stray.unlink()
    return seconds / 3600
