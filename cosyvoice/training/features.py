"""Features of the corpus, computed once a shard and kept beside it.

A shard's features are one uncompressed `.npz`: every kind is the concatenation of all utterances along time, so that
a job reads only the kinds it needs and a whole corpus is a handful of large arrays in memory.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile
from rich.progress import track

from cosyvoice.audio.fbank import KaldiFbank
from cosyvoice.audio.mel import LogMel, WhisperLogMel
from cosyvoice.audio.resample import resample
from cosyvoice.config.model import MelConfig
from cosyvoice.errors import ConfigError

KINDS = ("wave", "mel", "whisper", "fbank", "f0")
"""wave: int16 samples at 24 kHz; mel, f0: 50 Hz; whisper (log-mel 128), fbank (80): 100 Hz."""


@dataclass(frozen=True)
class Utterance:
    """What is said, by whom, and which phone ends when (s)."""

    id: str
    split: str
    speaker: str
    voice: str
    text: str
    symbols: tuple[str, ...]
    phones: tuple[str, ...]
    phone_ends: tuple[float, ...]
    seconds: float


def _compute(rows: list[dict[str, Any]]) -> dict[str, list[np.ndarray]]:
    log_mel, whisper, fbank = LogMel(MelConfig()), WhisperLogMel(), KaldiFbank()
    out: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for row in rows:
        wave, rate = soundfile.read(io.BytesIO(row["flac"]), dtype="float32")
        low = resample(wave, rate, 16000)
        out["wave"].append((wave * 32768).round().clip(-32768, 32767).astype(np.int16))
        out["mel"].append(log_mel(wave).astype(np.float16))
        out["whisper"].append(whisper(low).astype(np.float16))
        out["fbank"].append(fbank(low).astype(np.float16))
        out["f0"].append(np.asarray(row["f0"], np.float32))
    return out


def _prepare_shard(shard: Path, target: Path) -> None:
    rows = pq.read_table(shard).to_pylist()
    features = _compute(rows)
    keep = [f.name for f in Utterance.__dataclass_fields__.values() if f.name != "seconds"]
    index = [{**{key: row[key] for key in keep}, "seconds": row["samples"] / 24000} for row in rows]
    arrays: dict[str, np.ndarray] = {"index": np.frombuffer(json.dumps(index).encode(), np.uint8)}
    for kind, parts in features.items():
        # A block whose sentences were all too short is an empty shard.
        arrays[kind] = np.concatenate(parts) if parts else np.zeros(0)
        arrays[kind + "_ends"] = np.cumsum([len(part) for part in parts], dtype=np.int64)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    partial.rename(target)


class FeatureStore:
    """The utterances of a corpus with the chosen kinds of features in memory."""

    def __init__(self, corpus: Path, kinds: tuple[str, ...]) -> None:
        """Raises `ConfigError` where `corpus` holds no shards. Features that are missing are computed and kept."""
        shards = sorted(corpus.glob("*.parquet"))
        if not shards:
            raise ConfigError(f"{corpus} holds no corpus: make one with `cosyvoice corpus {corpus}`")
        folder = corpus / "features"
        folder.mkdir(exist_ok=True)
        missing = [shard for shard in shards if not (folder / f"{shard.stem}.npz").exists()]
        for shard in track(missing, description="features", disable=not missing):
            _prepare_shard(shard, folder / f"{shard.stem}.npz")
        self.utterances: list[Utterance] = []
        self._parts: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
        for shard in shards:
            with np.load(folder / f"{shard.stem}.npz") as arrays:
                rows = json.loads(arrays["index"].tobytes())
                for row in rows:
                    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
                    self.utterances.append(Utterance(**fields))
                for kind in kinds:
                    self._parts[kind] += np.split(arrays[kind], arrays[kind + "_ends"][:-1])[: len(rows)]

    def __len__(self) -> int:
        return len(self.utterances)

    def get(self, kind: str, index: int) -> np.ndarray:
        """The feature `kind` of utterance `index`, [time] or [time, bins]."""
        return self._parts[kind][index]

    def samples(self, index: int) -> np.ndarray:
        """The waveform of utterance `index`, float32 in [-1, 1) at 24 kHz."""
        return self.get("wave", index).astype(np.float32) / 32768

    def split(self, name: str) -> list[int]:
        """Indices of the utterances of a split."""
        return [i for i, utterance in enumerate(self.utterances) if utterance.split == name]


class TokenStore:
    """Arrays made by a trained network for every utterance (speech tokens, speaker embeddings), kept in one file."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays

    def __getitem__(self, utterance_id: str) -> np.ndarray:
        return self._arrays[utterance_id]

    def __contains__(self, utterance_id: str) -> bool:
        return utterance_id in self._arrays

    def save(self, path: Path) -> None:
        names = list(self._arrays)
        lengths = [len(self._arrays[name]) for name in names]
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            data = np.concatenate([self._arrays[name] for name in names])
            np.savez(file, names=np.array(names), ends=np.cumsum(lengths), data=data)
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> TokenStore:
        if not path.exists():
            raise ConfigError(f"{path} is missing: train the tokenizer and the speaker encoder first")
        with np.load(path) as arrays:
            parts = np.split(arrays["data"], arrays["ends"][:-1])
            return cls(dict(zip(arrays["names"].tolist(), parts, strict=True)))
