"""What all flows do with a reference and with flow times, in NumPy: small, and the same for every frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from cosyvoice.config.model import CausalMaskedDiffConfig, FlowConfig, MaskedDiffConfig
from cosyvoice.engine.stages import FloatArray
from cosyvoice.errors import ModelError

_SHORTEST_NORM = 1e-12


class Weights:
    """Tensors of a safetensors file in single precision, read one at a time and kept by no one else."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, name: str) -> FloatArray:
        """The tensor `name`. Raises `ModelError` where it is missing or the file is damaged."""
        try:
            # Opened anew each time: pages that were read would otherwise stay mapped.
            with safe_open(self._path, framework="np") as file:
                return np.ascontiguousarray(file.get_tensor(name), np.float32)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(
                f"{self._path} cannot give the tensor {name!r} ({error}); convert the model again"
            ) from None

    def linear(self, name: str, x: FloatArray) -> FloatArray:
        """`x` [..., in] through the linear layer `name`."""
        product: FloatArray = x @ self(f"{name}.weight").T + self(f"{name}.bias")
        return product


class VoiceReader:
    """The reference of an utterance as the flow's networks take it. Safe from many threads."""

    def __init__(self, read: Weights, config: FlowConfig | MaskedDiffConfig | CausalMaskedDiffConfig) -> None:
        """Read the weights of the projection; errors as in `Weights`."""
        self._config = config
        self._weight, self._bias = read("spk_embed_affine_layer.weight"), read("spk_embed_affine_layer.bias")

    def speaker(self, embedding: FloatArray) -> FloatArray:
        """The projection of a speaker embedding of any norm."""
        embedding = np.asarray(embedding, np.float32)
        return np.asarray(
            self._weight @ (embedding / max(float(np.linalg.norm(embedding)), _SHORTEST_NORM)) + self._bias
        )

    def mel(self, mel: FloatArray) -> FloatArray:
        """Log-mel as the networks take it."""
        return np.ascontiguousarray(
            (np.asarray(mel, np.float32) - self._config.mel_mean) / self._config.mel_std, np.float32
        )

    def tokens(self, tokens: Sequence[int] | NDArray[np.int32]) -> NDArray[np.int64]:
        """`tokens` as ids of the embedding; negative ones, used as padding, count as 0.

        Raises `ModelError` for a token outside the vocabulary.
        """
        ids = np.maximum(np.asarray(tokens, np.int64), 0)
        if ids.size and ids.max() >= self._config.vocab_size:
            raise ModelError(
                f"speech token {ids.max()} is outside 0..{self._config.vocab_size - 1}; "
                "tokens and flow come from different models"
            )
        return ids


def time_code(times: FloatArray, width: int) -> FloatArray:
    """Sinusoidal code of flow times [times] in 0..1 -> [times, width]: all sines, then all cosines."""
    half = width // 2
    frequency = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1)))
    angle = (np.float32(1000) * times)[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def silu(x: FloatArray) -> FloatArray:
    """x times its logistic."""
    return np.asarray(x / (1 + np.exp(-x)))


def mish(x: FloatArray) -> FloatArray:
    """x tanh(log(1 + e^x))."""
    return np.asarray(x * np.tanh(np.logaddexp(np.float32(0), x)))
