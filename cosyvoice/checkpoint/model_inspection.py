"""What a model directory is: its form and generation, what it holds, what it lacks, and what does not belong to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cosyvoice.checkpoint.belonging import Shapes
from cosyvoice.checkpoint.inspection import READABLE, FileReport, inspect_file
from cosyvoice.config.bundle import is_bundle, read_bundle
from cosyvoice.config.model import LLMConfig, ModelConfig
from cosyvoice.config.qwen_files import QWEN_DIRECTORY
from cosyvoice.config.released import detect_generation, read_model_config
from cosyvoice.errors import ConfigError, CosyVoiceError, ModelError

NETWORKS = ("llm", "flow", "hift")
Expected = Callable[[ModelConfig], Mapping[str, Shapes]]
"""Names and shapes of the weights that a configuration asks for."""

_QWEN_FILES = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class Inspection:
    """What a file or directory is."""

    path: str
    kind: str
    """`file`, `released model`, `bundle`, `GGUF model` or `model`."""
    name: str = ""
    generation: str = ""
    precision: str = ""
    files: list[FileReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What is missing or does not fit, one sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def inspect_path(path: Path, expected: Expected | None = None) -> Inspection:
    """What the file or directory `path` is.

    Args:
        path: of anything that belongs to a model.
        expected: lists the weights that a configuration asks for; without it they are not compared.

    Raises:
        ModelError: there is nothing, or nothing that this version knows.
    """
    path = Path(path)
    if path.is_dir():
        return _directory(path, expected)
    parent_shapes = _shapes_beside(path, expected) if path.is_file() else {}
    report = inspect_file(path, parent_shapes)
    return Inspection(
        str(path), "file", generation=report.generation, precision=report.precision, files=[report],
        problems=_file_problems(report, report.generation),
    )  # fmt: skip


def _directory(path: Path, expected: Expected | None) -> Inspection:
    problems: list[str] = []
    released = detect_generation(path)
    weights = sorted(item.name for item in path.iterdir() if item.is_file() and item.suffix in READABLE)
    if released is None and not (path / "config.json").is_file():
        raise ModelError(
            f"{path} is nothing this version knows: it holds neither a YAML file of a model nor config.json"
        )
    config = read_model_config(path)
    bundle = None
    if is_bundle(path):
        try:
            bundle = read_bundle(path)
        except ModelError as error:
            problems.append(str(error))
    gguf = "llm.gguf" in weights
    kind = "released model" if released else "bundle" if is_bundle(path) else "GGUF model" if gguf else "model"
    shapes: Mapping[str, Shapes] = {}
    if expected is not None:
        try:
            shapes = expected(config)
        except ConfigError as error:
            problems.append(str(error))
    files: list[FileReport] = []
    for name in weights:
        try:
            files.append(inspect_file(path / name, shapes))
        except CosyVoiceError as error:
            problems.append(str(error))
    for report in files:
        problems += _file_problems(report, config.generation)
    problems += [
        f"{path / name} is missing; copy the complete model directory" for name in _missing(path, config, kind)
    ]
    precision = bundle.precision if bundle is not None else ""
    return Inspection(str(path), kind, config.name, config.generation, precision, files, problems)


def _missing(path: Path, config: ModelConfig, kind: str) -> list[str]:
    """Names of files without which the model cannot be loaded."""
    released = kind == "released model"
    ending = {"released model": ".pt", "GGUF model": ".gguf"}.get(kind, ".safetensors")
    needed = [f"{network}{ending}" for network in NETWORKS]
    needed += [f"speech_tokenizer_{config.generation}.onnx" if released else "speech_tokenizer.onnx", "campplus.onnx"]
    if config.tokenizer == "qwen2":
        needed += [f"{QWEN_DIRECTORY}/{name}" for name in _QWEN_FILES]
    if kind == "GGUF model" and isinstance(config.llm, LLMConfig):
        needed.append("speech.gguf")
    return [name for name in needed if not (path / name).is_file()]


def _shapes_beside(path: Path, expected: Expected | None) -> Mapping[str, Shapes]:
    """What the configuration in the directory of a file asks for; nothing where there is none that can be read."""
    if expected is None or path.name.split(".", 1)[0] not in NETWORKS:
        return {}
    try:
        config = read_model_config(path.parent)
        return expected(config)
    except CosyVoiceError:
        return {}


def _file_problems(report: FileReport, generation: str) -> list[str]:
    problems: list[str] = []
    if report.generation and report.generation != generation:
        problems.append(
            f"{report.name} looks like the {report.network} of generation {report.generation}, the configuration is of "
            f"{generation}; use the file that came with it"
        )
    place = report.name.split(".", 1)[0]
    if report.network and place in NETWORKS and report.network != place:
        problems.append(f"{report.name} looks like the {report.network}; give every file the name it came with")
    mismatch = report.mismatch
    if mismatch:
        for what, names in (
            ("lacks", mismatch.missing),
            ("holds the unknown", mismatch.foreign),
            ("has another shape for", mismatch.misshapen),
        ):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                problems.append(f"{report.name} {what} {names[0]!r}{more}; copy the complete model directory")
    return problems
