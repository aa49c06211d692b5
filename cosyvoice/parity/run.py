"""All parity checks over one folder.

One broken stage must not hide the others: a check that raises becomes a failing row, and so does a recorded
topic that no check reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cosyvoice.config.bundle import PRECISIONS, Precision
from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.parity import e2e, features, flow, hift, llm, native, text
from cosyvoice.parity.converted import Converted
from cosyvoice.parity.golden import STOPPED, ParityFolder, Row

SUPPORTED = ("v1", "v2", "v3")
"""Generations that can be checked."""

BACKENDS = ("reference", "native")
"""Engines that can be checked."""

Progress = Callable[[str], None]
"""Called with what is checked next, for example `v3 flow`."""

_RECORD = re.compile(r"((?:v\d+_)?\w+?)(?:\.meta)?\.(?:safetensors|json)")
_GENERATION = re.compile(r"(v\d+)_")


@dataclass(frozen=True)
class Check:
    """One stage: its function, and the recorded topics that it reads (`{}` stands for the generation)."""

    name: str
    rows: Callable[[ParityFolder, str], Iterable[Row]]
    topics: tuple[str, ...]

    def topics_of(self, generation: str) -> set[str]:
        return {topic.format(generation) for topic in self.topics}


CHECKS = (
    Check("text", text.check, ("{}_text", "text_helpers", "wetext_versions")),
    Check("features", features.check, ("features",)),
    Check("llm", llm.check, ("{}_llm", "{}_llm_train", "{}_bistream", "ras")),
    Check("flow", flow.check, ("{}_flow", "{}_flow_debug", "{}_flow_train")),
    Check("hift", hift.check, ("{}_hift", "{}_gan", "{}_official_rng")),
    Check("e2e", e2e.check, ("{}_e2e",)),
)


def recorded_topics(folder: ParityFolder) -> set[str]:
    """Names of all topics in the golden folder; raises `ModelError` for a folder that is no parity folder."""
    golden = folder.root / "golden"
    if not golden.is_dir():
        raise ModelError(
            f"{folder.root} is no parity folder: it has no directory 'golden'; give a folder that holds "
            "golden/, wav/ and the models as vN/model/"
        )
    found = (_RECORD.fullmatch(path.name) for path in golden.iterdir())
    return {match[1] for match in found if match}


def recorded_generations(folder: ParityFolder) -> list[str]:
    """Generations that the folder has records of, in order; raises `ModelError` if there are none."""
    found = {match[1] for topic in recorded_topics(folder) if (match := _GENERATION.match(topic))}
    if not found:
        raise ModelError(
            f"{folder.root} is no parity folder: golden/ holds no record of a generation, such as "
            "v3_llm.safetensors; copy the complete folder"
        )
    return sorted(found, key=lambda name: int(name[1:]))


def check_generations(folder: ParityFolder, generations: Sequence[str]) -> None:
    """Raise `ModelError` for none at all, and for one that is not supported, recorded, or with its model."""
    recorded = recorded_generations(folder)
    if not generations:
        raise ModelError(
            f"{folder.root} holds records of {', '.join(recorded)}, of which none is supported; give a folder "
            f"with records of {', '.join(SUPPORTED)}"
        )
    for generation in generations:
        if generation not in SUPPORTED:
            raise ModelError(f"generation {generation!r} is not supported; choose one of {', '.join(SUPPORTED)}")
        if generation not in recorded:
            raise ModelError(f"{folder.root} holds no record of {generation}; it has {', '.join(recorded)}")
        if not folder.model_dir(generation).is_dir():
            raise ModelError(
                f"{folder.model_dir(generation)} is missing, which the records of {generation} belong to; "
                "copy the complete folder"
            )


def check_backend(name: str, precision: str = "fp32") -> None:
    """Raise `ConfigError` for an engine that cannot be checked, or not in that precision."""
    if name not in BACKENDS:
        raise ConfigError(f"no backend {name!r}; choose one of {', '.join(BACKENDS)}")
    if precision not in PRECISIONS:
        raise ConfigError(f"no precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if precision != "fp32" and name != "native":
        raise ConfigError(f"the reference computes in single precision only; check {precision} with the backend native")


def run(
    folder: ParityFolder,
    generations: Sequence[str],
    progress: Progress | None = None,
    backend: str = "reference",
    precision: Precision = "fp32",
) -> list[Row]:
    """Rows of every check of `generations` whose topics the folder has.

    With the backend `native`, the recorded models are converted in `precision` to a temporary directory, and the
    stages are those of the native engine; see `native.left_out` for what it has no counterpart of. The tolerances are
    those of single precision whatever the precision is.

    Raises `ConfigError` for another backend or precision, and `ModelError` for a folder that is no parity folder, and
    for a generation that it does not have or that is not supported.
    """
    check_backend(backend, precision)
    check_generations(folder, generations)
    recorded = recorded_topics(folder)
    rows: list[Row] = []
    seen: set[str] = set()
    for generation in generations:
        with TemporaryDirectory(prefix="cosyvoice-parity-") as directory:
            checks = (
                CHECKS if backend == "reference" else _native(Converted(folder, generation, Path(directory), precision))
            )
            for check in checks:
                topics = check.topics_of(generation)
                if topics & recorded:
                    if progress is not None:
                        progress(f"{generation} {check.name}")
                    rows.extend(_guarded(check, folder, generation))
                seen |= topics
    for topic in sorted(recorded - seen):
        generation_mark = _GENERATION.match(topic)
        if generation_mark is None or generation_mark[1] in generations:
            rows.append(Row(topic, "(whole topic)", float("inf"), 0.0, "recorded, but no check reads it"))
    return rows


def _native(converted: Converted) -> tuple[Check, ...]:
    """The checks with those of the networks on native stages."""

    def on(rows: Callable[[Converted], Iterable[Row]]) -> Callable[[ParityFolder, str], Iterable[Row]]:
        return lambda folder, generation: rows(converted)

    return tuple(
        replace(check, rows=on(native.CHECKS[check.name])) if check.name in native.CHECKS else check for check in CHECKS
    )


def _guarded(check: Check, folder: ParityFolder, generation: str) -> Iterator[Row]:
    try:
        yield from check.rows(folder, generation)
    except Exception as error:  # whatever goes wrong in one stage, the table has to show the others
        reason = f"{type(error).__name__}: {error}"
        yield Row(f"{generation}_{check.name}", STOPPED, float("inf"), 0.0, reason)
