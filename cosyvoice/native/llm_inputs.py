"""What goes into the graph of a language model on a Qwen2 decoder, beside key-value buffers: embeddings and positions.

Both are parts that a generation may have otherwise; `LLMParts` is what all of them come to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cosyvoice.checkpoint.tensor_file import TensorFile
from cosyvoice.config.model import LLMConfig, Qwen2Config
from cosyvoice.engine.stages import FloatArray
from cosyvoice.errors import ModelError, TextError, VoiceError
from cosyvoice.llm.layout import Kind, Row

WEIGHTS = "llm.safetensors"
TEXT_TABLE, SPEECH_TABLE = "llm.model.model.embed_tokens.weight", "speech_embedding.weight"
SPECIAL_TABLE = "llm_embedding.weight"


class Embedder(Protocol):
    """Rows to what the graph reads."""

    def __call__(self, rows: Sequence[Row], speaker: FloatArray | None = None) -> FloatArray:
        """Embeddings [rows, channels]; `speaker` [speaker_embedding_dim] is for the speaker's row.

        Raises `TextError` and `VoiceError` for ids that are not in their table.
        """
        ...


@dataclass(frozen=True)
class LLMParts:
    """What distinguishes one decoder from another, for whoever runs its graph."""

    embed: Embedder
    positions: Callable[[int], dict[str, FloatArray]]
    """Inputs of the graph, by name, with a row for each of so many positions."""
    layers: int
    kv_heads: int
    head_dim: int


def qwen_parts(directory: Path, config: LLMConfig) -> LLMParts:
    """The parts of a model on a Qwen2 decoder. Raises `ModelError` for weights that do not fit `config`."""
    qwen = config.qwen
    return LLMParts(
        EmbeddingTables(directory / WEIGHTS, config),
        lambda positions: rotary_tables(qwen, positions),
        qwen.num_layers,
        qwen.num_kv_heads,
        qwen.hidden_size // qwen.num_heads,
    )


class EmbeddingTables:
    """Rows of the text and the speech table, and of that of special rows, read where they lie in the weight file."""

    def __init__(self, path: Path, config: LLMConfig) -> None:
        width = config.qwen.hidden_size
        speech = map_tensor(path, SPEECH_TABLE, (config.speech_token_size + config.speech_extra_tokens, width))
        self._tables = {
            Kind.TEXT: map_tensor(path, TEXT_TABLE, (config.qwen.vocab_size, width)),
            Kind.SPEECH: speech,
            Kind.SPECIAL: map_tensor(path, SPECIAL_TABLE, (2, width)) if config.task_embedding else speech,
        }
        self._width = width

    def __call__(self, rows: Sequence[Row], speaker: FloatArray | None = None) -> FloatArray:
        """See `Embedder`; no row is a speaker's."""
        embedded = np.empty((len(rows), self._width), np.float32)
        for index, row in enumerate(rows):
            embedded[index] = table_row(self._tables[row.kind], row)
        return embedded


def table_row(table: NDArray[Any], row: Row) -> NDArray[Any]:
    """The row of `table`; raises `TextError` or `VoiceError` where it has none."""
    if not 0 <= row.id < len(table):
        error = TextError if row.kind == Kind.TEXT else VoiceError
        raise error(f"the id {row.id} is outside of the model's {len(table)}; use tokens of this model")
    found: NDArray[Any] = table[row.id]
    return found


def map_tensor(path: Path, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """A floating-point tensor of a safetensors file, mapped into memory.

    Raises `ModelError` where the file is damaged, or lacks a tensor of that name and shape.
    """
    tensors = TensorFile(path, cure="convert the model again")
    found = tuple(tensors.shape(name))
    if found != shape:
        raise ModelError(
            f"{path}: {name!r} has the shape {found}, the configuration beside it asks for {shape}; copy the "
            "complete model directory"
        )
    return tensors.map(name)


def rotary_tables(config: Qwen2Config, positions: int) -> dict[str, FloatArray]:
    """Cosine and sine [positions, head_dim / 2] of the angles position * theta^(-2i / head_dim)."""
    head_dim = config.hidden_size // config.num_heads
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1) / np.float32(config.rope_theta) ** exponents
    angles = np.outer(np.arange(positions, dtype=np.float32), frequencies)
    return {"cos_cache": np.cos(angles), "sin_cache": np.sin(angles)}
