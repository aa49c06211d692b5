"""All of the flow but the velocity estimator, in NumPy: what the estimator is given for a run of frames.

These parts are small and constant over the steps of the solver: token embeddings with their look-ahead block, the
speaker, the conditions' part of the estimator's input projection, and the modulation of its layer norms by the flow
time. Any run of frames is encoded by itself, with the few tokens around it that the convolutions see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import FlowConfig
from cosyvoice.engine.stages import FloatArray, FlowInput
from cosyvoice.native.flow_voice import VoiceReader, Weights, silu, time_code

TIME_FREQUENCIES = 256
"""Width of the sinusoidal code of the flow time."""
MODULATION_ROWS = 6
"""Modulation vectors of a block: attention scale, shift and gate, then feed-forward scale, shift and gate."""
POSITION_CONTEXT = 30
"""Frames to the left that a convolution of the position embedding sees."""
_ESTIMATOR = "decoder.estimator."
_LEAKY_SLOPE = np.float32(0.01)
_ROW_ORDER = (1, 0, 2, 4, 3, 5)
"""The checkpoint has the shift before the scale, in both halves of a block."""
_SCALES = (1, 4)


@dataclass(frozen=True)
class FlowVoice:
    """The reference of an utterance, ready for the estimator. Shared between threads, never changed."""

    tokens: NDArray[np.int64]
    mel: FloatArray
    """Normalised [frames, mel_dim]."""
    speaker: FloatArray
    """The speaker's part of the input projection [dim]."""


class FlowEncoder:
    """Conditions of the estimator; see the module. Safe from many threads."""

    def __init__(self, path: Path, config: FlowConfig) -> None:
        """Read the weights of the encoder from the safetensors file `path`; errors as in `Weights`."""
        read = Weights(path)
        self._config = config
        self._embedding = read("input_embedding.weight")
        self._reader = VoiceReader(read, config)
        self._ahead = _convolution(read, "pre_lookahead_layer.conv1")
        self._behind = _convolution(read, "pre_lookahead_layer.conv2")
        projection = read(f"{_ESTIMATOR}input_embed.proj.weight").T
        dit = config.dit
        bounds = np.cumsum([dit.mel_dim, dit.mel_dim, dit.mu_dim])
        _, self._of_mel, self._of_mu, self._of_speaker = np.split(projection, bounds)
        self._bias = read(f"{_ESTIMATOR}input_embed.proj.bias")
        self._inv_freq = read(f"{_ESTIMATOR}rotary_embed.inv_freq")

    def voice(self, inputs: FlowInput) -> FlowVoice:
        """Everything about the reference that does not depend on what is said. Raises `ModelError` for a token
        outside the vocabulary."""
        reader = self._reader
        speaker = reader.speaker(inputs.speaker_embedding) @ self._of_speaker
        return FlowVoice(reader.tokens(inputs.prompt_token), reader.mel(inputs.prompt_mel), speaker)

    def checked(self, tokens: Sequence[int] | NDArray[np.int32]) -> NDArray[np.int64]:
        """`tokens` as ids of the embedding; negative ones, used as padding, count as 0."""
        return self._reader.tokens(tokens)

    def projected(self, voice: FlowVoice, tokens: NDArray[np.int64], first: int, end: int) -> FloatArray:
        """Input projection [2, end - first, dim] of the conditions of frames first..end - 1, then of none.

        `tokens` are those of reference and utterance so far. Frames near the end find zeros where tokens that
        the look-ahead would read do not exist.
        """
        ratio = self._config.token_mel_ratio
        begin = first // ratio
        mu = np.repeat(self._mu(tokens, begin, -(-end // ratio)), ratio, axis=0)
        mu = mu[first - begin * ratio :][: end - first]
        rows = np.empty((2, end - first, len(self._bias)), np.float32)
        rows[:] = self._bias
        rows[0] += voice.speaker
        rows[0] += mu @ self._of_mu
        shown = voice.mel[first:end]
        rows[0, : len(shown)] += shown @ self._of_mel
        return rows

    def angles(self, first: int, end: int) -> tuple[FloatArray, FloatArray]:
        """cos and sin of the rotary angles at frames first..end - 1, each [frames, dim_head / 2]."""
        angle = np.outer(np.arange(first, end, dtype=np.float32), self._inv_freq)
        return np.cos(angle), np.sin(angle)

    def _mu(self, tokens: NDArray[np.int64], begin: int, end: int) -> FloatArray:
        """Encoder output [end - begin, mu_dim] of tokens begin..end - 1."""
        (ahead, ahead_bias), (behind, behind_bias) = self._ahead, self._behind
        lookahead, context = len(ahead) - 1, len(behind) - 1
        start = max(begin - context, 0)
        known = self._embedding[tokens[start : end + lookahead]]
        missing = end + lookahead - start - len(known)
        h = _convolved(np.pad(known, ((0, missing), (0, 0))), ahead) + ahead_bias
        h = np.maximum(h, h * _LEAKY_SLOPE)
        # Zeros stand before the first token, behind the first convolution.
        h = np.pad(h, ((context - (begin - start), 0), (0, 0)))
        return _convolved(h, behind) + behind_bias + known[begin - start : end - start]


def modulations(path: Path, config: FlowConfig, times: Sequence[np.float32]) -> list[FloatArray]:
    """Modulation [6 * depth + 2, dim] of the estimator's layer norms at each of the flow `times`.

    The layers that make it are more than a third of the estimator's weights, and are not needed any more once the
    times are fixed.
    """
    read, dit, mlp = Weights(path), config.dit, f"{_ESTIMATOR}time_embed.time_mlp"
    code = time_code(np.array(times, np.float32), TIME_FREQUENCIES)
    time = silu(read.linear(f"{mlp}.2", silu(read.linear(f"{mlp}.0", code))))
    rows = np.empty((len(times), MODULATION_ROWS * dit.depth + 2, dit.dim), np.float32)
    for block in range(dit.depth):
        values = read.linear(f"{_ESTIMATOR}transformer_blocks.{block}.attn_norm.linear", time)
        values = values.reshape(len(times), MODULATION_ROWS, dit.dim)
        values[:, _SCALES] += 1
        rows[:, MODULATION_ROWS * block : MODULATION_ROWS * (block + 1)] = values[:, _ROW_ORDER]
    final = read.linear(f"{_ESTIMATOR}norm_out.linear", time).reshape(len(times), 2, dit.dim)
    final[:, 0] += 1
    rows[:, MODULATION_ROWS * dit.depth :] = final
    return list(rows)


def _convolution(read: Weights, name: str) -> tuple[FloatArray, FloatArray]:
    """Weight as [kernel, in, out], and bias."""
    return np.ascontiguousarray(read(f"{name}.weight").transpose(2, 1, 0)), read(f"{name}.bias")


def _convolved(x: FloatArray, weight: FloatArray) -> FloatArray:
    """`x` [time, in] under `weight` [kernel, in, out] without padding: [time - kernel + 1, out]."""
    length = len(x) - len(weight) + 1
    total = x[:length] @ weight[0]
    for offset in range(1, len(weight)):
        total += x[offset : offset + length] @ weight[offset]
    return total
