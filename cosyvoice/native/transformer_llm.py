"""What goes into the graph of the first generation's language model: encoded text, the speaker, projected distances.

The text encoder is a graph of its own, run once a prompt. Attention scores distances: their projections by each layer
are the same for all sequences and steps, so they are made once, not in every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cosyvoice.config.model import EncoderConfig, TransformerLMConfig
from cosyvoice.engine.stages import FloatArray
from cosyvoice.errors import GenerationError
from cosyvoice.llm.layout import Kind, Row
from cosyvoice.native.llm_inputs import SPECIAL_TABLE, SPEECH_TABLE, WEIGHTS, LLMParts, map_tensor, table_row
from cosyvoice.native.positions import Sinusoids
from cosyvoice.native.runtime import Runtime, run

TEXT_ENCODER_GRAPH = "text_encoder.onnx"
SPEAKER_LAYER = "spk_embed_affine_layer"
_NO_NORM = 1e-12


def transformer_parts(directory: Path, config: TransformerLMConfig, runtime: Runtime) -> LLMParts:
    """The parts of a model on a Transformer decoder. Raises `ModelError` for files that do not fit `config`."""
    heads = config.llm.attention_heads
    return LLMParts(
        EncodedEmbeddings(directory, config, runtime),
        ProjectedDistances(directory / WEIGHTS, config.llm),
        config.llm.num_blocks,
        heads,
        config.llm.output_size // heads,
    )


class EncodedEmbeddings:
    """Speech and special rows from tables, text rows from the text encoder, the speaker's from a linear layer."""

    def __init__(self, directory: Path, config: TransformerLMConfig, runtime: Runtime) -> None:
        path, width, size = directory / WEIGHTS, config.llm.input_size, config.speaker_embedding_dim
        self._tables = {
            Kind.SPEECH: map_tensor(path, SPEECH_TABLE, (config.speech_token_size, width)),
            Kind.SPECIAL: map_tensor(path, SPECIAL_TABLE, (2, width)),
        }
        self._speaker_weight = map_tensor(path, f"{SPEAKER_LAYER}.weight", (width, size)).astype(np.float32)
        self._speaker_bias = map_tensor(path, f"{SPEAKER_LAYER}.bias", (width,)).astype(np.float32)
        self._text_encoder = runtime.session(directory / TEXT_ENCODER_GRAPH)
        self._width = width

    def __call__(self, rows: Sequence[Row], speaker: FloatArray | None = None) -> FloatArray:
        """See `Embedder`. The text rows are encoded as one text; their ids were checked when the rows were made."""
        embedded = np.empty((len(rows), self._width), np.float32)
        text = [index for index, row in enumerate(rows) if row.kind == Kind.TEXT]
        if text:
            ids = np.array([rows[index].id for index in text], np.int64)
            embedded[text] = run(self._text_encoder, ["encoded"], {"ids": ids})[0]
        for index, row in enumerate(rows):
            if row.kind == Kind.SPEAKER:
                embedded[index] = self._projected(speaker)
            elif row.kind != Kind.TEXT:
                embedded[index] = table_row(self._tables[row.kind], row)
        return embedded

    def _projected(self, speaker: FloatArray | None) -> FloatArray:
        if speaker is None:
            raise GenerationError("the sequence has a row for a speaker; give the speaker embedding as well")
        unit = speaker / np.float32(max(float(np.linalg.norm(speaker)), _NO_NORM))
        return np.asarray(self._speaker_weight @ unit + self._speaker_bias, np.float32)


class ProjectedDistances:
    """Projections of the sinusoids of distances by every layer."""

    def __init__(self, path: Path, config: EncoderConfig) -> None:
        self._path, self._config = path, config

    def __call__(self, positions: int) -> dict[str, FloatArray]:
        """`distances_I` [positions, heads, head_dim] of each layer I, for the distances 0 .. positions - 1."""
        width, heads = self._config.output_size, self._config.attention_heads
        table = sinusoids(positions, width)
        projected: dict[str, FloatArray] = {}
        for index in range(self._config.num_blocks):
            name = f"llm.encoders.{index}.self_attn.linear_pos.weight"
            weight = map_tensor(self._path, name, (width, width)).astype(np.float32)
            projected[f"distances_{index}"] = (table @ weight.T).reshape(positions, heads, -1)
        return projected


def sinusoids(positions: int, channels: int) -> FloatArray:
    """[positions, channels]: sine and cosine of position * base^(-2i / channels) in turn."""
    cos, sin, _ = Sinusoids(channels)(0, positions)
    return np.stack([sin, cos], axis=-1).reshape(positions, -1)
