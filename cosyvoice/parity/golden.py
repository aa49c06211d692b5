"""Recorded tensors and the comparison with ours.

A golden folder holds, for each topic, `NAME.safetensors` with tensors and `NAME.meta.json` with shapes,
meanings and options. A check yields one `Row` for each recorded tensor that it reproduces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cosyvoice.errors import ModelError

TOLERANCE = 1e-4
"""Absolute tolerance of everything that does not depend on F0."""
STOPPED = "(check stopped)"
"""Stands for the tensors that a check did not come to."""
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

    @property
    def severity(self) -> float:
        """The error in units of the tolerance; infinite for any error where nothing is tolerated."""
        if self.tolerance > 0:
            return self.error / self.tolerance
        return float("inf") if self.error > 0 else 0.0


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
        """The model that the records of `generation` belong to; a file `model` names its place."""
        place = self.root / generation / "model"
        if not place.is_file():
            return place
        return Path(place.read_text(encoding="utf-8").strip()).expanduser()

    def has(self, topic: str) -> bool:
        return (self.root / "golden" / f"{topic}.safetensors").is_file()

    def topic(self, name: str) -> Topic:
        """Load `golden/NAME.safetensors` with its `.meta.json`; raises `ModelError` if it cannot be read."""
        path = self.root / "golden" / f"{name}.safetensors"
        if not path.is_file():
            raise ModelError(f"{path} does not exist; a parity folder needs golden/{name}.safetensors")
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{path} is damaged ({error}); copy the parity folder again") from None
        described = (path.parent / f"{name}.meta.json").is_file()
        return Topic(name, tensors, self.json(f"{name}.meta") if described else {})

    def json(self, name: str) -> Any:
        """The content of `golden/NAME.json`; raises `ModelError` if it cannot be read."""
        return _read_json(self.root / "golden" / f"{name}.json")

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of `manifest.json`; raises `ModelError` if it cannot be read."""
        manifest: dict[str, Any] = _read_json(self.root / "manifest.json")
        return manifest


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); copy the complete parity folder") from None


def compare(
    stage: str, tensor: str, ours: Any, recorded: np.ndarray, tolerance: float = TOLERANCE, note: str = ""
) -> Row:
    """Largest absolute difference of `ours` (array or tensor) and `recorded`.

    It is `inf` where the shapes differ or either holds a NaN. Infinities of the same sign are equal: blocked
    ids have the log-probability -inf.
    """
    if hasattr(ours, "detach"):
        ours = ours.detach().cpu().numpy()
    ours = np.asarray(ours)
    if ours.shape != recorded.shape:
        return Row(stage, tensor, float("inf"), tolerance, f"shape {ours.shape}, recorded {recorded.shape}")
    if ours.size == 0:
        return Row(stage, tensor, 0.0, tolerance, note)
    a, b = ours.astype(np.float64), recorded.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, np.abs(a - b))
    error = float(difference.max())
    return Row(stage, tensor, float("inf") if np.isnan(error) else error, tolerance, note)


def exact(stage: str, name: str, ours: Any, recorded: Any, note: str = "") -> Row:
    """A row for ids, strings and layouts: error 0 where equal, `inf` otherwise."""
    if _plain(ours) == _plain(recorded):
        return Row(stage, name, 0.0, 0.0, note)
    return Row(stage, name, float("inf"), 0.0, f"ours {ours!r:.80}, recorded {recorded!r:.80}")


def _plain(value: Any) -> Any:
    """Lists instead of arrays, tensors and tuples."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def worst(rows: Iterable[Row]) -> Row:
    """The row with the largest error relative to its tolerance: what to name first. `rows` is not empty."""
    return max(rows, key=lambda row: row.severity)


def assert_parity(rows: Iterable[Row]) -> None:
    """Raise AssertionError that names every failing tensor, the worst first. An empty table fails too."""
    rows = list(rows)
    if not rows:
        raise AssertionError("no tensor was compared")
    failed = sorted((row for row in rows if not row.passed), key=lambda row: -row.severity)
    if failed:
        lines = [f"{row.stage} {row.tensor}: {row.error:.3g} > {row.tolerance:.0e} {row.note}" for row in failed]
        raise AssertionError(f"{len(failed)} of {len(rows)} tensors differ\n" + "\n".join(lines))
