"""Recorded tensors and the comparison with ours.

A golden folder holds, for each topic, `NAME.safetensors` with tensors and `NAME.meta.json` with shapes, meanings
and options. A check yields one `Row` for each recorded tensor that it reproduces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from cosyvoice.errors import ModelError

TOLERANCE = 1e-4
"""Absolute tolerance of everything that does not depend on F0."""
F0_TOLERANCE = 1e-3
"""Tolerance of F0 (Hz) and of waveforms that pass through it: the phase sums F0 over the utterance."""


@dataclass(frozen=True)
class Row:
    """One line of the parity table. `error` is the largest absolute difference; `inf` where shapes differ."""

    stage: str
    tensor: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Topic:
    """One recorded topic: its tensors and its description."""

    name: str
    tensors: dict[str, np.ndarray]
    meta: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors


@dataclass(frozen=True)
class ParityFolder:
    """A folder laid out as `vN/model`, `golden`, `wav`, `manifest.json`."""

    root: Path

    def model_dir(self, generation: str) -> Path:
        return self.root / generation / "model"

    def has(self, topic: str) -> bool:
        return (self.root / "golden" / f"{topic}.safetensors").is_file()

    def topic(self, name: str) -> Topic:
        """Load `golden/NAME.safetensors` with its `.meta.json`."""
        path = self.root / "golden" / f"{name}.safetensors"
        if not path.is_file():
            raise ModelError(f"{path} does not exist; a parity folder needs golden/{name}.safetensors")
        meta = path.with_suffix("").with_suffix(".meta.json")
        return Topic(name, load_file(path), json.loads(meta.read_text()) if meta.is_file() else {})

    def json(self, name: str) -> Any:
        return json.loads((self.root / "golden" / f"{name}.json").read_text())

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.root / "manifest.json").read_text())


def compare(stage: str, tensor: str, ours: Any, recorded: np.ndarray, tolerance: float = TOLERANCE, note: str = "") -> Row:
    """Largest absolute difference of `ours` (array or tensor) and `recorded`; `inf` for another shape or for NaN."""
    if hasattr(ours, "detach"):
        ours = ours.detach().cpu().numpy()
    ours = np.asarray(ours)
    if ours.shape != recorded.shape:
        return Row(stage, tensor, float("inf"), tolerance, f"shape {ours.shape}, recorded {recorded.shape}")
    if ours.size == 0:
        return Row(stage, tensor, 0.0, tolerance, note)
    a, b = ours.astype(np.float64), recorded.astype(np.float64)
    # Equal infinities (masked log-probabilities) are equal; any other non-finite value is a failure.
    difference = np.where(a == b, 0.0, np.abs(a - b))
    error = float(difference.max())
    return Row(stage, tensor, float("inf") if np.isnan(error) else error, tolerance, note)


def exact(stage: str, name: str, ours: Any, recorded: Any, note: str = "") -> Row:
    """A row for ids, strings and layouts: error 0 where equal, `inf` otherwise."""
    def plain(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    same = plain(ours) == plain(recorded)
    return Row(stage, name, 0.0 if same else float("inf"), 0.0, note if same else f"ours {ours!r:.80}, recorded {recorded!r:.80}")


def worst(rows: Iterable[Row]) -> Row:
    """The row with the largest error relative to its tolerance: what a failing test should name first."""
    return max(rows, key=lambda row: row.error / row.tolerance if row.tolerance else row.error * np.inf if row.error else 0.0)


def assert_parity(rows: Iterable[Row]) -> None:
    """Raise AssertionError that names every failing tensor, the worst first. An empty table fails too."""
    rows = list(rows)
    assert rows, "no tensor was compared"
    failed = sorted((row for row in rows if not row.passed), key=lambda row: -row.error)
    if failed:
        lines = [f"{row.stage} {row.tensor}: {row.error:.3g} > {row.tolerance:.0e} {row.note}" for row in failed]
        raise AssertionError(f"{len(failed)} of {len(rows)} tensors differ\n" + "\n".join(lines))
