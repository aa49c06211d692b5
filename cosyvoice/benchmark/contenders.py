"""Who is measured: the reference, and a bundle of the model for each precision."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Literal, cast

import cosyvoice
from cosyvoice.benchmark.harness import Say
from cosyvoice.config.bundle import PRECISIONS, Precision, is_bundle, read_bundle
from cosyvoice.config.released import read_model_config
from cosyvoice.engine.pipeline import TTS
from cosyvoice.errors import ConfigError
from cosyvoice.native.options import VocoderOptions
from cosyvoice.native.solver import FlowOptions

REFERENCE = "reference"
DEFAULT_ENGINE = "onnxruntime"
ENGINES: Mapping[str, tuple[FlowOptions, VocoderOptions]] = {
    "onnxruntime": (FlowOptions(), VocoderOptions()),
    "openvino": (FlowOptions(engine="openvino"), VocoderOptions(engine="openvino")),
    "openvino-bf16": (
        FlowOptions(engine="openvino", arithmetic="bfloat16"),
        VocoderOptions(engine="openvino", arithmetic="bfloat16"),
    ),
}
"""What may run flow and vocoder."""


@dataclass(frozen=True)
class Contender:
    """A model directory and what runs it."""

    name: str
    """`reference`, or the precision of a bundle, and what differs from the usual engine and number of steps."""
    backend: Literal["native", "reference"]
    directory: Path
    engine: str = DEFAULT_ENGINE
    """Of flow and vocoder, one of `ENGINES`."""
    steps: int | None = None
    """Of the flow; None: as many as the model asks for."""
    guided_until: float = 1.0
    """Flow time from which the flow goes without guidance."""

    @property
    def options(self) -> tuple[FlowOptions, VocoderOptions]:
        """Of the native engine."""
        flow, vocoder = ENGINES[self.engine]
        return replace(flow, n_timesteps=self.steps, guidance=(0.0, self.guided_until)), vocoder

    def load(self, threads: int) -> TTS:
        """The model; raises `ModelError` where it is damaged."""
        flow, vocoder = self.options if self.backend == "native" else (None, None)
        return cosyvoice.load(self.directory, backend=self.backend, threads=threads, flow=flow, vocoder=vocoder)


@dataclass(frozen=True)
class Field:
    """All contenders, the one that the others are compared with first, and what is to be said about them."""

    contenders: tuple[Contender, ...]
    notes: tuple[str, ...] = ()

    @property
    def baseline(self) -> str:
        """The contender that ratios are formed with."""
        return self.contenders[0].name

    @property
    def native(self) -> tuple[Contender, ...]:
        """Those on the native engine."""
        return tuple(contender for contender in self.contenders if contender.backend == "native")


def check_precisions(model: Path, precisions: Sequence[str]) -> list[Precision]:
    """The precisions to be measured; without any that of a bundle, or fp32.

    Raises `ConfigError` for one that does not exist, or that `model` cannot be brought to, and `ModelError`
    where `model` is no model directory.
    """
    unknown = [precision for precision in precisions if precision not in PRECISIONS]
    if unknown:
        raise ConfigError(f"no precision {unknown[0]!r}; choose from {', '.join(PRECISIONS)}")
    wanted = cast(list[Precision], list(dict.fromkeys(precisions)))
    read_model_config(model)
    own: Precision = read_bundle(model).precision if is_bundle(model) else "fp32"
    others = [precision for precision in wanted if precision != own]
    if own != "fp32" and others:
        raise ConfigError(
            f"{model} is a bundle in {own}, which cannot become {others[0]}; name the model that it was made from"
        )
    return wanted or [own]


def check_engines(engines: Sequence[str]) -> list[str]:
    """`engines`, each once; without any ONNX Runtime. Raises `ConfigError` for one that does not exist."""
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown:
        raise ConfigError(f"no engine {unknown[0]!r}; choose from {', '.join(ENGINES)}")
    return list(dict.fromkeys(engines)) or [DEFAULT_ENGINE]


def find_field(
    model: Path,
    precisions: Sequence[Precision],
    folder: Path,
    say: Say | None = None,
    engines: Sequence[str] = (DEFAULT_ENGINE,),
    steps: Sequence[int | None] = (None,),
    guided_until: float = 1.0,
) -> Field:
    """The contenders of `model`, every precision with each of the `engines` and each number of `steps` of the flow,
    converted into `folder` where that is needed; all are guided until the flow time `guided_until`.

    A conversion that `folder` holds already is used again if its source has not changed. Without PyTorch, or
    for a bundle whose weights are quantised, there is no reference, which a note says.

    Raises `ImportError` where a conversion is needed and its packages are missing, and what `convert` raises.
    """
    notes: list[str] = []
    contenders: list[Contender] = []
    float_weights = not is_bundle(model) or read_bundle(model).float_weights
    if not torch_available():
        notes.append("PyTorch is not installed, so there is no reference: pip install 'cosyvoice[torch]'")
    elif not float_weights:
        notes.append("the weights are quantised, so there is no reference; name the model that they were made from")
    else:
        contenders.append(Contender(REFERENCE, "reference", model))
    guided = "" if guided_until == 1.0 else f" guided to {guided_until:g}"
    for precision in precisions:
        directory = _bundle(model, precision, folder, say)
        for engine, count in product(engines, steps):
            name = precision if engine == DEFAULT_ENGINE else f"{precision} {engine}"
            name += "" if count is None else f" {count} steps"
            contenders.append(Contender(name + guided, "native", directory, engine, count, guided_until))
    return Field(tuple(contenders), tuple(notes))


def torch_available() -> bool:
    """Whether the reference can run."""
    return find_spec("torch") is not None


def _bundle(model: Path, precision: Precision, folder: Path, say: Say | None) -> Path:
    if is_bundle(model) and read_bundle(model).precision == precision:
        return model
    out = folder / f"{model.resolve().name}-{precision}"
    if is_bundle(out) and _is_made_from(out, model, precision):
        return out
    from cosyvoice.export.bundle import convert

    told = None if say is None else _prefixed(say, precision)
    convert(model, out, precision, overwrite=True, progress=told, measure=False)
    return out


def _prefixed(say: Say, precision: str) -> Say:
    return lambda text: say(f"{precision}: {text}")


def _is_made_from(bundle: Path, model: Path, precision: Precision) -> bool:
    """Whether `bundle` is a conversion of the weights that `model` holds now, by this version."""
    record = read_bundle(bundle)
    if record.precision != precision or record.made_by != cosyvoice.__version__ or not record.source_digest:
        return False
    files = {name: model / name for name in record.source_digest}
    return all(path.is_file() and _digest(path) == record.source_digest[name] for name, path in files.items())


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
