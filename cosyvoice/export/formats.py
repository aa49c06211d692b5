"""Conversion between the four forms that a model directory has: released `.pt`, safetensors, GGUF, and the bundle.

A conversion reads one network at a time under the names of the reference, whatever generation it is of, and writes it
in the other form; everything else of the directory goes along. What the networks are does not matter here, so a form
that can be written can be read back. The released YAML file is kept by every form that was made of it, since only with
it can the released layout be written again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from cosyvoice import __version__
from cosyvoice.checkpoint.directories import replacing
from cosyvoice.checkpoint.gguf_file import Tensor, numbers
from cosyvoice.checkpoint.gguf_model import (
    FILES,
    GGUF_PRECISIONS,
    is_gguf,
    read_gguf_network,
    stored_as,
    write_gguf_network,
)
from cosyvoice.checkpoint.speakers import SPEAKERS_FILE, read_speakers
from cosyvoice.checkpoint.tensor_file import write_tensors
from cosyvoice.config.bundle import PRECISIONS, Precision, is_bundle
from cosyvoice.config.released import QWEN_DIRECTORY, YAML_OF_GENERATION, detect_generation
from cosyvoice.errors import ConfigError, ModelError, OutputError
from cosyvoice.export.bundle import (
    NETWORKS,
    RELEASED_DIRECTORY,
    SPK2INFO,
    TOKENIZER_FILE,
    UNUSED,
    Quantised,
    Source,
    convert,
    copy_frontend,
)
from cosyvoice.export.gguf_blocks import bits_of, runnable_llm

Format = Literal["bundle", "safetensors", "gguf", "pt"]
FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS_OF: dict[Format, tuple[str, ...]] = {
    "bundle": PRECISIONS,
    "safetensors": ("fp32", "fp16"),
    "gguf": GGUF_PRECISIONS,
    "pt": ("fp32", "fp16"),
}
"""Precisions in which each form can be written."""
TEXT_BODY, TEXT_TABLE = "llm.model.", "llm.model.model.embed_tokens.weight"
_NOT_NORMED = "source_downs."
"""Convolutions of the vocoder that never had a weight norm."""
Arrays = Mapping[str, NDArray[Any]]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Converted:
    """What a conversion made."""

    format: Format
    precision: str
    files: int
    size: int
    """Bytes of all files."""
    quality: dict[str, float] = field(default_factory=dict)
    """Measured distances from the source, where the form is one that runs."""
    rounded: str = ""
    """What quantised weights of the source lost before, which no form brings back."""


def detect_format(directory: Path) -> Format:
    """The form of a model directory. Raises `ModelError` where it is none."""
    if is_bundle(directory):
        return "bundle"
    if detect_generation(directory) is not None:
        return "pt"
    if is_gguf(directory):
        return "gguf"
    if (directory / "config.json").is_file() and (directory / "llm.safetensors").is_file():
        return "safetensors"
    problem = "holds no model" if directory.is_dir() else "does not exist"
    raise ModelError(
        f"{directory} {problem}; name a directory with the YAML file of a released model, or with config.json "
        "and weights"
    )


def convert_model(
    source: Path,
    out: Path,
    to: Format = "bundle",
    precision: str | None = None,
    progress: Progress | None = None,
    measure: bool = True,
    variant: str = "",
) -> Converted:
    """Write the model in `source` as `to` into the directory `out`, complete or not at all.

    Args:
        source: a model directory in any form. Quantised weights of a bundle become the numbers that they stand for.
        out: a directory that does not exist or is empty.
        to: `bundle` for the native engine; `safetensors` for the reference and for training; `gguf`; `pt`, the
            released layout.
        precision: one of `PRECISIONS_OF[to]`. None: as the source has it, GGUF's blocks included where the form
            can hold them; fp32 for a bundle of anything else, and fp16 for GGUF of anything else.
        progress: told what is done next.
        measure: whether a bundle is run beside the reference.
        variant: of the language model of a released directory, "rl" for `llm.rl.pt`.

    Raises:
        ConfigError: no such form, or none in that precision.
        ModelError: the source is incomplete or damaged, or has no such form.
        OutputError: `out` holds files, or cannot be written.
    """
    if to not in FORMATS:
        raise ConfigError(f"no format {to!r}; choose one of {', '.join(FORMATS)}")
    if precision is not None and precision not in PRECISIONS_OF[to]:
        raise ConfigError(f"no precision {precision!r} of {to}; choose one of {', '.join(PRECISIONS_OF[to])}")
    source, out, say = Path(source), Path(out), progress or (lambda _: None)
    found = detect_format(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} is not an empty directory; choose another one")
    if to == "bundle":
        return _to_bundle(source, out, precision, say, measure, variant)
    opened = _opened(source, variant)
    if to == "gguf" and precision is None and found != "gguf":
        precision = "fp16"
    with replacing(out) as fresh:
        copy_frontend(opened, fresh)
        for network in NETWORKS:
            say(f"converting {network}")
            tensors = read_network(opened, network)
            if to == "gguf":
                _write_gguf(opened, network, tensors, precision, fresh)
            else:
                stored = {name: numbers(stored_as(name, t, network, precision)) for name, t in tensors.items()}
                write = _write_safetensors if to == "safetensors" else _write_pt
                write(fresh / network, stored)
        if to == "pt":
            _released_frontend(opened, fresh)
    return _converted(out, to, precision or "as in the source", rounded=_rounded(opened))


def read_network(source: Source, network: str) -> dict[str, Tensor]:
    """Tensors of `llm`, `flow` or `hift` of a model directory in any form, under the names of the reference.

    Raises `ModelError` for files that are missing, damaged or foreign.
    """
    if detect_format(source.directory) == "gguf":
        return read_gguf_network(source.directory, network, source.config)
    return dict(source.weights(network)[0])


def _opened(directory: Path, variant: str = "") -> Source:
    """A source whose configuration says whether it was released, so that the other forms say it too."""
    source = Source.open(directory, variant)
    return replace(source, config=source.config.model_copy(update={"released": source.released}))


def _to_bundle(
    source: Path, out: Path, precision: str | None, say: Progress, measure: bool, variant: str = ""
) -> Converted:
    opened = _opened(source, variant)
    if detect_format(source) != "gguf" and not opened.rounded:
        record = convert(source, out, _bundle_precision(precision), progress=say, measure=measure, variant=variant)
        return _converted(out, "bundle", record.precision, record.quality)
    llm = read_network(opened, "llm")
    bits = bits_of(llm) if precision is None else set()
    quantised = None
    if bits:
        files = tuple(source / name for names in FILES.values() for name in names if (source / name).is_file())
        kinds = "+".join(f"q{number}_0" for number in sorted(bits))
        label: Precision = "mixed" if len(bits) > 1 else "int8" if bits == {8} else "int4"
        quantised = Quantised(runnable_llm(llm), label, kinds, files)
    del llm
    # The reference, which a bundle is measured against, reads numbers.
    with _beside(out, source.resolve().name) as expanded:
        convert_model(source, expanded, "safetensors", progress=say)
        record = convert(
            expanded, out, _bundle_precision(precision), progress=say, measure=measure, quantised=quantised
        )
    made = quantised.kind if quantised else record.precision
    return _converted(out, "bundle", made, record.quality, _rounded(opened))


def _bundle_precision(precision: str | None) -> Precision:
    return precision or "fp32"  # type: ignore[return-value]  # the caller has checked it


@contextmanager
def _beside(out: Path, name: str) -> Iterator[Path]:
    """A directory `name` for what is needed on the way, on the disk of `out`."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}); choose another directory") from None
    try:
        yield Path(temporary) / name
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_gguf(source: Source, network: str, tensors: Mapping[str, Tensor], precision: str | None, out: Path) -> None:
    provenance = {"source": source.directory.resolve().name, "made_by": __version__}
    write_gguf_network(out, network, tensors, source.config, precision, provenance)


def _write_safetensors(path: Path, weights: Arrays) -> None:
    write_tensors(path.with_suffix(".safetensors"), weights)


def _write_pt(path: Path, weights: Arrays) -> None:
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in unfold_weight_norm(weights).items()}
    if TEXT_TABLE in tensors:
        # The released implementation insists on the head that it never uses, and that is tied to the table.
        tensors[UNUSED] = tensors[TEXT_TABLE]
    torch.save(tensors, path.with_suffix(".pt"))


def unfold_weight_norm(weights: Arrays) -> dict[str, NDArray[Any]]:
    """Weights of a vocoder with every folded weight norm taken apart again into magnitude and direction.

    The direction of a folded weight is the weight itself, and its magnitude the norm over all but the first axis, so
    what they stand for is the same up to rounding. Weights of other networks, and norms that were never folded, stay
    as they are.
    """
    if "conv_pre.weight" not in weights:
        return dict(weights)
    unfolded: dict[str, NDArray[Any]] = {}
    for name, value in weights.items():
        layer = name.removesuffix(".weight")
        if layer == name or value.ndim != 3 or name.startswith(_NOT_NORMED):
            unfolded[name] = value
            continue
        norm = np.sqrt(np.square(value, dtype=np.float64).sum(axis=(1, 2), keepdims=True))
        unfolded[f"{layer}.parametrizations.weight.original0"] = norm.astype(value.dtype)
        unfolded[f"{layer}.parametrizations.weight.original1"] = value
    return unfolded


def _released_frontend(source: Source, out: Path) -> None:
    """Bring what `copy_frontend` put into `out` to the names of the released layout."""
    generation = source.config.generation
    yaml = out / RELEASED_DIRECTORY / YAML_OF_GENERATION[generation]
    if not yaml.is_file():
        raise ModelError(
            f"{source.directory} was not made from a released model, so there is no {yaml.name} to describe it; "
            "choose another format"
        )
    yaml.rename(out / yaml.name)
    shutil.rmtree(out / RELEASED_DIRECTORY)
    (out / "config.json").unlink()
    (out / TOKENIZER_FILE).rename(out / f"speech_tokenizer_{generation}.onnx")
    if (out / QWEN_DIRECTORY).is_dir():
        _write_text_model(out)
    if (out / SPEAKERS_FILE).is_file():
        speakers = {
            name: {key: torch.from_numpy(value) for key, value in entries.items()}
            for name, entries in read_speakers(out / SPEAKERS_FILE).items()
        }
        torch.save(speakers, out / SPK2INFO)
        (out / SPEAKERS_FILE).unlink()


def _write_text_model(out: Path) -> None:
    """The text model that the released implementation loads before it puts the weights of `llm.pt` over it."""
    weights = torch.load(out / "llm.pt", map_location="cpu", weights_only=True)
    body = {
        name.removeprefix(TEXT_BODY): tensor.numpy()
        for name, tensor in weights.items()
        if name.startswith(TEXT_BODY) and name != UNUSED
    }
    write_tensors(out / QWEN_DIRECTORY / "model.safetensors", body, {"format": "pt"})


def _rounded(source: Source) -> str:
    """What the weights of a quantised bundle lost when it was made, in words."""
    if not source.rounded or source.record is None:
        return ""
    stages = ", ".join(f"{stage} {precision}" for stage, precision in source.rounded.items())
    cost = ", ".join(f"{name} {value:.3g}" for name, value in source.record.quality.items())
    return (
        f"the weights of {source.directory.name} were rounded ({stages}) and stay so; "
        f"{f'its record says what that cost: {cost}' if cost else 'its record does not say what that cost'}; "
        f"for exact weights convert the model that it was made from ({source.record.source})"
    )


def _converted(
    out: Path, to: Format, precision: str, quality: Mapping[str, float] | None = None, rounded: str = ""
) -> Converted:
    files = [path for path in out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return Converted(to, precision, len(files), size, dict(quality or {}), rounded)
