"""The encoder of the second generation's flow on ONNX Runtime, run on tokens that continue cached ones.

What it keeps of earlier chunks are two entries of the `FlowContext` of an utterance, behind those of the solver: one
at the rate of the tokens, one at that of the mel. Each begins with the sinusoids of the keys' positions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import CausalMaskedDiffConfig
from cosyvoice.engine.stages import FloatArray
from cosyvoice.native.flow_cache import EvaluationCache, FlowContext
from cosyvoice.native.positions import Sinusoids
from cosyvoice.native.runtime import Runtime, run

AHEAD_CONTEXT = 2
"""Rows before a token that the second convolution of the look-ahead block sees."""


def up_context(ratio: int) -> int:
    """Frames before a frame that the convolution behind the upsampling by `ratio` sees."""
    return 2 * ratio


class UpsampleEncoder:
    """Encoder output of runs of tokens. Safe from many threads.

    Args:
        path: of the graph.
        config: of the flow.
        runtime: makes the session.
        entries: of a context that come before those of the encoder.
    """

    def __init__(self, path: Path, config: CausalMaskedDiffConfig, runtime: Runtime, entries: int) -> None:
        encoder = config.encoder
        self._config = config
        self._session = runtime.session(path)
        self._sinusoids = Sinusoids(encoder.output_size)
        self._entries = entries
        self._lower, layers = encoder.num_blocks, encoder.num_blocks + config.up_blocks
        parts = [f"{part}_{layer}" for layer in range(layers) for part in ("key", "value")]
        self._cache_inputs = [f"past_{part}" for part in parts]
        self._outputs = ["mu", "next_behind", "next_upsampled", *parts]
        self._start = self._empty()

    def start(self) -> list[EvaluationCache]:
        """The encoder's entries of a context before the first chunk."""
        return list(self._start)

    def __call__(
        self, tokens: NDArray[np.int64], first: int, end: int, context: FlowContext | None, keep: bool
    ) -> FloatArray:
        """mu [frames, mel_dim] of the tokens first..end - 1 of `tokens`, which has those to look ahead at, if there are
        any. `keep` adds the run to `context`, which holds what lies before; None: nothing."""
        ratio, ahead = self._config.token_mel_ratio, self._config.pre_lookahead_len
        lower, upper = self._start if context is None else context.evaluations[self._entries :]
        known = tokens[first : end + ahead]
        missing = end + ahead - first - len(known)
        present = np.ones((1, len(known) + missing, 1), np.float32)
        present[:, len(known) :] = 0
        inputs = {
            "token": np.pad(known, (0, missing))[None],
            "present": present,
            "behind": lower.convolutions[0],
            "upsampled": upper.convolutions[0],
            **dict(zip(self._cache_inputs, (*lower.blocks[1:], *upper.blocks[1:]), strict=True)),
        }
        tables = []
        for name, entry, scale in (("tokens", lower, 1), ("frames", upper, ratio)):
            cos, sin, table = self._sinusoids(first * scale, end * scale)
            tables.append(table[None, None])
            inputs |= {f"{name}_cos": cos, f"{name}_sin": sin}
            inputs[f"{name}_table"] = np.concatenate([entry.blocks[0][0, 0], table])
        if not keep or context is None:
            mu: FloatArray = run(self._session, ["mu"], inputs)[0][0]
            return mu
        whole, behind, upsampled, *new = run(self._session, self._outputs, inputs)
        split = 2 * self._lower
        context.store(self._entries, (behind,), [tables[0], *new[:split]], ratio)
        context.store(self._entries + 1, (upsampled,), [tables[1], *new[split:]])
        kept: FloatArray = whole[0]
        return kept

    def _empty(self) -> tuple[EvaluationCache, EvaluationCache]:
        encoder = self._config.encoder
        width, heads = encoder.output_size, encoder.attention_heads

        def entry(layers: int, context: int) -> EvaluationCache:
            nothing = np.zeros((1, heads, 0, width // heads), np.float32)
            table = np.zeros((1, 1, 0, width), np.float32)
            return EvaluationCache((np.zeros((1, width, context), np.float32),), (table, *(nothing,) * (2 * layers)))

        ratio = self._config.token_mel_ratio
        return entry(self._lower, AHEAD_CONTEXT), entry(self._config.up_blocks, up_context(ratio))
