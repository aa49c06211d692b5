"""A recorded model converted for the native engine, and which recorded tensors that engine has no counterpart of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from cosyvoice.config.bundle import Precision
from cosyvoice.engine.models import CosyVoiceModel
from cosyvoice.export.bundle import convert
from cosyvoice.native.loading import load_native_model
from cosyvoice.parity.golden import ParityFolder, Row
from cosyvoice.parity.report import Report

INSIDE = {
    "{}_llm": r".*\.text_encoder_out",
    "{}_llm_train": r"(?!batch\.).*",
    "{}_flow": r".*\.(mu|cond|mask|spks)|.*\.est_(first|last)\..*",
    "{}_flow_debug": r"enc\..*|est\..*|ragged\.out.*|run\.(mu|spks)",
    "{}_flow_train": r"(?!batch\.).*",
    "{}_hift": r"decode\.(?!source$).*|source_test\..*|rand_ini",
    "{}_gan": r"(?!batch\.).*",
    "{}_official_rng": "rand_ini",
}
"""Names of tensors inside the reference's networks and its training, by topic (`{}` stands for the generation).

The native engine computes what comes out of a stage by other intermediate results, and does not train. The initial
phases of the source are drawn, but never have an effect.
"""


class Converted:
    """The model of a generation as a bundle, made when it is first asked for.

    Args:
        folder: holds the released model.
        generation: of the model.
        directory: an existing directory for the bundle.
        precision: of the bundle.
    """

    def __init__(self, folder: ParityFolder, generation: str, directory: Path, precision: Precision = "fp32") -> None:
        self.folder, self.generation, self.precision = folder, generation, precision
        self._directory = directory

    @cached_property
    def bundle(self) -> Path:
        """The directory of the bundle. Raises `ModelError` for a model that cannot be converted."""
        out = self._directory / self.generation
        convert(self.folder.model_dir(self.generation), out, self.precision, measure=False)
        return out

    @cached_property
    def model(self) -> CosyVoiceModel:
        """The loaded bundle."""
        return load_native_model(self.bundle, compat="released")


def inside(folder: ParityFolder, generation: str, name: str) -> frozenset[str]:
    """Tensors of the recorded topic `name` that only the reference has."""
    patterns = [pattern for topic, pattern in INSIDE.items() if topic.format(generation) == name]
    if not patterns or not folder.has(name):
        return frozenset()
    return frozenset(tensor for tensor in folder.topic(name).tensors if re.fullmatch(patterns[0], tensor))


def check_topics(converted: Converted, checks: Mapping[str, Callable[[Report, Converted], None]]) -> Iterator[Row]:
    """Rows of the topics that the folder has; a name `{}_flow` is completed by the generation."""
    for pattern, check_topic in checks.items():
        name = pattern.format(converted.generation)
        if converted.folder.has(name):
            report = Report(converted.folder.topic(name))
            check_topic(report, converted)
            yield from report.finish(inside(converted.folder, converted.generation, name))
