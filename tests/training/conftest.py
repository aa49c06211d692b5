"""A synthetic corpus of tones in the corpus schema, and runs of every stage on it at size `test`."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from cosyvoice.training import loop
from cosyvoice.training.assemble import assemble
from cosyvoice.training.configuration import STAGES, load_settings
from cosyvoice.training.corpus.build import HOP, SAMPLE_RATE, SCHEMA
from cosyvoice.training.run import run_stage

PITCHES = {"ann": 210.0, "bob": 110.0, "cleo": 190.0, "dan": 130.0, "eve": 230.0, "fred": 95.0}
SPLITS = {"train": ("ann", "bob"), "validation": ("cleo", "dan"), "test": ("eve", "fred")}
SENTENCES = {"train": 4, "validation": 2, "test": 2}
WORDS = (("HH", "AH0", "L", "OW1"), ("W", "ER1", "L", "D"), ("S", "IY1"), ("DH", "AH0"), ("M", "UW1", "N"))
VOICED_FROM = 0.3
STEPS = 3
FAST = (f"loop.steps={STEPS}", "loop.log_every=1", "loop.validate_every=100")


def tone_utterance(name: str, speaker: str, split: str, seed: int) -> dict[str, Any]:
    """One row of a shard: a harmonic tone for every phone, of the speaker's pitch and the phone's timbre."""
    rng = np.random.default_rng(seed)
    words = [WORDS[i] for i in rng.integers(0, len(WORDS), 3)]
    symbols = [symbol for word in words for symbol in (*word, "_")]
    symbols[-1] = "."
    phones, ends, waves, f0 = ["pau"], [0.1], [np.zeros(5 * HOP)], [0.0] * 5
    for phone in [p for word in words for p in word]:
        frames = int(rng.integers(3, 7))
        voiced = sum(map(ord, phone)) % 10 / 10 >= VOICED_FROM
        time = np.arange(frames * HOP) / SAMPLE_RATE
        harmonics = 1 + sum(map(ord, phone)) % 7
        wave = sum(np.sin(2 * np.pi * PITCHES[speaker] * k * time) / k for k in range(1, harmonics + 1))
        waves.append(0.2 * wave if voiced else rng.normal(0, 0.05, len(time)))
        f0 += [PITCHES[speaker] if voiced else 0.0] * frames
        phones.append(phone)
        ends.append(ends[-1] + frames * HOP / SAMPLE_RATE)
    samples = np.concatenate(waves).astype(np.float32)
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return {
        "id": name,
        "split": split,
        "speaker": speaker,
        "voice": "tone",
        "text": " ".join("".join(word) for word in words),
        "symbols": symbols,
        "phones": phones,
        "phone_ends": ends,
        "samples": len(samples),
        "f0": f0,
        "flac": encoded.getvalue(),
    }


def write_tone_corpus(folder: Path) -> Path:
    """Two speakers in every split, one shard a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (split, speakers) in enumerate(SPLITS.items()):
        rows = [
            tone_utterance(f"{speaker}-{k}", speaker, split, 1000 * number + 10 * k + place)
            for place, speaker in enumerate(speakers)
            for k in range(SENTENCES[split])
        ]
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_corpus() -> Callable[[Path], Path]:
    return write_tone_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tone_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def finished_runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage trained for `STEPS` steps. Copy it before changing anything in it."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        # Losses are drawn at every report, which costs far more than these steps.
        patch.setattr(loop, "plot_losses", lambda history, path: None)
        for stage, settings in load_settings("test", STAGES, FAST).items():
            run_stage(stage, settings, corpus, runs)
    return runs


@pytest.fixture(scope="session")
def assembled(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the finished runs, with real ONNX files, whose export takes seconds."""
    out = tmp_path_factory.mktemp("models") / "tiny"
    assemble(finished_runs, out, "tiny")
    return out


@pytest.fixture
def runs(finished_runs: Path, tmp_path: Path) -> Path:
    """A copy of the finished runs that a test may change."""
    return Path(shutil.copytree(finished_runs, tmp_path / "runs"))
