"""A model as GGUF: a directory with one file a network, so that each tool opens the file that it can use.

One file for everything would hold tensors that no other program knows, and llama.cpp refuses a file with a tensor
too many. So `llm.gguf` is the Qwen2 body alone, as architecture `qwen2` with the tokenizer: it opens, runs and is
requantised with tools for text models. `speech.gguf` holds what makes it speak: speech embedding and output head.
`flow.gguf` and `hift.gguf` are the other networks. Those three, and the language model of the first generation, which
is no Qwen2, have the architecture `cosyvoice` and the names of the reference. Configuration, prompt encoders (ONNX),
tokenizer files and voices lie beside them as in every other model directory; each file also carries the configuration
in its metadata, under `cosyvoice.*`, so that a file which strayed says where it belongs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.checkpoint.gguf_file import GgufFile, Tensor, Value, fits_blocks, numbers, quantised, write_gguf
from cosyvoice.checkpoint.gguf_qwen2 import ARCHITECTURE, llama_names, our_name, qwen2_metadata, tokenizer_metadata
from cosyvoice.config.model import LLMConfig, ModelConfig, Qwen2Config
from cosyvoice.config.qwen_files import QWEN_DIRECTORY
from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.text.special_tokens import added_tokens

OWN_ARCHITECTURE = "cosyvoice"
GGUF_PRECISIONS = ("fp32", "fp16", "q8_0", "q4_0")
FILES = {"llm": ("llm.gguf", "speech.gguf"), "flow": ("flow.gguf",), "hift": ("hift.gguf",)}
"""The files of each network; `speech.gguf` is there where `llm.gguf` holds a Qwen2 body."""
FORMAT_VERSION = 1
_FILE_TYPES = {"fp32": 0, "fp16": 1, "q4_0": 2, "q8_0": 7}
"""Numbers by which other tools know the precision of most of a file."""
_QUANTISATION_VERSION = 2
_BLOCKS = {
    "llm": {"q8_0": "Q8_0", "q4_0": "Q4_0"},
    # The flow multiplies hundreds of frames at a time: four bits would save it memory only, at the highest cost.
    "flow": {"q8_0": "Q8_0", "q4_0": "Q8_0"},
    "hift": {},
}
_EXACT = ("f0_predictor.",)
"""The phase of the source sums F0 up over the utterance, so its predictor keeps every digit."""


def write_gguf_network(
    directory: Path,
    network: str,
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    precision: str | None = None,
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Write `llm`, `flow` or `hift` into `directory`, where the tokenizer files already lie.

    Args:
        directory: of the model.
        network: whose tensors these are.
        tensors: under the names of the reference; blocks are written as they are where `precision` allows.
        config: of the whole model, kept in the metadata.
        precision: `fp32`; `fp16`, which keeps vectors and the F0 predictor in single precision; `q8_0` and `q4_0`,
            which quantise the matrices of linear layers, but not embeddings, whose rows are looked up one by one; the
            vocoder stays in half precision, and the flow takes eight bits at least. None leaves every tensor as it is.
        provenance: kept in the metadata under `cosyvoice.KEY`.

    Raises `ConfigError` for another precision, `ModelError` for tensors that the format cannot hold, `OutputError`
    where a file cannot be written.
    """
    if precision is not None and precision not in GGUF_PRECISIONS:
        raise ConfigError(f"no precision {precision!r}; choose one of {', '.join(GGUF_PRECISIONS)}")
    stored = {name: stored_as(name, tensor, network, precision) for name, tensor in tensors.items()}
    common: dict[str, Value] = {
        "general.name": config.name,
        "general.quantization_version": _QUANTISATION_VERSION,
        f"{OWN_ARCHITECTURE}.format_version": FORMAT_VERSION,
        f"{OWN_ARCHITECTURE}.generation": config.generation,
        f"{OWN_ARCHITECTURE}.config": config.model_dump_json(),
        **{f"{OWN_ARCHITECTURE}.{key}": value for key, value in (provenance or {}).items()},
    }
    if precision is not None:
        common["general.file_type"] = _FILE_TYPES[precision]
    first, *others = FILES[network]
    part = f"{OWN_ARCHITECTURE}.part"
    qwen = _qwen2(config) if network == "llm" else None
    if qwen is None:
        write_gguf(directory / first, OWN_ARCHITECTURE, {**common, part: network}, stored)
        return
    added = added_tokens(config.generation) if config.generation != "v1" else ()
    tokenizer = tokenizer_metadata(directory / QWEN_DIRECTORY, qwen.vocab_size, added)
    metadata = {**common, part: network, **qwen2_metadata(qwen), **tokenizer}
    body = llama_names(stored)
    write_gguf(directory / first, ARCHITECTURE, metadata, {body[name]: stored[name] for name in body})
    rest = {name: tensor for name, tensor in stored.items() if name not in body}
    write_gguf(directory / others[0], OWN_ARCHITECTURE, {**common, part: "speech"}, rest)


def _qwen2(config: ModelConfig) -> Qwen2Config | None:
    """Geometry of the language model's body; None where that is no Qwen2."""
    return config.llm.qwen if isinstance(config.llm, LLMConfig) else None


def stored_as(name: str, tensor: Tensor, network: str, precision: str | None) -> Tensor:
    """`tensor` in the type that it has in a file of `precision`. Blocks of that very type are left as they are."""
    if precision is None:
        return tensor
    kind = _BLOCKS[network].get(precision) if is_linear(name) else None
    if not isinstance(tensor, np.ndarray):
        if tensor.type == kind:
            return tensor
        tensor = numbers(tensor)
    if not np.issubdtype(tensor.dtype, np.floating):
        return tensor
    if kind is not None and fits_blocks(tensor):
        return quantised(tensor, kind)
    if precision == "fp32" or tensor.ndim < 2 or name.startswith(_EXACT):
        return tensor.astype(np.float32)
    return _halved(tensor)


def is_linear(name: str) -> bool:
    """Whether a tensor is by its name the matrix of a linear layer, and no table that is looked up."""
    layer, _, leaf = name.rpartition(".")
    return leaf == "weight" and not layer.endswith(("embed_tokens", "embedding"))


def _halved(tensor: NDArray[Any]) -> NDArray[Any]:
    """In half precision, or in single where a value is beyond its range."""
    with np.errstate(over="ignore"):
        half = tensor.astype(np.float16)
    return half if np.isfinite(half).all() else tensor.astype(np.float32)


def is_gguf(directory: Path) -> bool:
    """Whether `directory` holds a model as GGUF."""
    return (directory / FILES["llm"][0]).is_file()


def read_gguf_network(directory: Path, network: str, config: ModelConfig) -> dict[str, Tensor]:
    """Tensors of `llm`, `flow` or `hift` under the names of the reference, blocks as blocks.

    Raises `ModelError` for files that are missing or damaged, that belong to another part or generation, or whose
    geometry is not that of `config`.
    """
    first, *others = FILES[network]
    file = _open(directory / first, network, config)
    if file.text("general.architecture") == OWN_ARCHITECTURE:
        return file.tensors()
    tensors: dict[str, Tensor] = {}
    for name in file.names:
        ours = our_name(name)
        if ours is not None:
            tensors[ours] = file.tensor(name)
        elif name != "output.weight":  # The output head of the text model, which speech never passes.
            raise ModelError(f"{file.path} holds {name!r}, which no Qwen2 decoder has; convert the model again")
    for path in others:
        tensors |= _open(directory / path, "speech", config).tensors()
    return tensors


def _open(path: Path, part: str, config: ModelConfig) -> GgufFile:
    """A file that is the `part` of a model of this configuration."""
    file = GgufFile(path)
    architecture, found = file.text("general.architecture"), file.text(f"{OWN_ARCHITECTURE}.part")
    qwen = _qwen2(config) if part == "llm" else None
    expected = ARCHITECTURE if qwen is not None else OWN_ARCHITECTURE
    if architecture != expected:
        raise ModelError(
            f"{path} has the architecture {architecture!r} instead of {expected!r}; it belongs to another model, so "
            "copy the complete model directory"
        )
    version = file.metadata.get(f"{OWN_ARCHITECTURE}.format_version")
    if found != part or version != FORMAT_VERSION:
        raise ModelError(
            f"{path} is not the part {part!r} of a speech model (part {found!r}, format {version}); make it with "
            "'cosyvoice convert MODEL OUT --to gguf'"
        )
    generation = file.text(f"{OWN_ARCHITECTURE}.generation")
    if generation != config.generation:
        raise ModelError(
            f"{path} is of generation {generation}, the configuration beside it of {config.generation}; copy the "
            "complete model directory"
        )
    if qwen is not None:
        for key, value in qwen2_metadata(qwen).items():
            given = file.metadata.get(key)
            if isinstance(value, int) and given != value:
                raise ModelError(
                    f"{path}: {key} is {given}, the configuration beside it asks for {value}; copy the complete "
                    "model directory"
                )
    return file
