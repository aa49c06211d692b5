"""Fundamental frequency from the mel spectrogram in NumPy, of a whole mel or frame by frame of a growing one.

For a growing mel the arithmetic is always double precision, also for models whose reference uses single precision:
the phase of the source sums the result over the whole utterance, and only in double precision is that sum the same
however the frames were cut into chunks. It costs about a percent of real time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import HiFTConfig
from cosyvoice.engine.stages import FloatArray
from cosyvoice.errors import ModelError

KERNEL_SIZES = (4, 3, 3, 3, 3)
"""Of the convolutions of the causal predictor; the first sees the future only, the others the past only."""
LOOK_RIGHT = KERNEL_SIZES[0] - 1
"""Frames of mel that the F0 of a frame depends on beyond that frame, in the causal predictor."""
SYMMETRIC_KERNEL_SIZES = (3, 3, 3, 3, 3)
"""Of the predictor that sees both sides."""

DoubleArray = NDArray[np.float64]
RealArray = NDArray[np.floating[Any]]


class F0Layers:
    """The layers that both predictors have."""

    kernel_sizes: tuple[int, ...]
    precision: type[np.floating[Any]]

    def __init__(self, weights: Mapping[str, NDArray[Any]], config: HiFTConfig) -> None:
        """`weights` are those of the vocoder, weight norms folded or not. Raises `ModelError` if one is missing."""
        self._mean, self._std = config.mel_mean, config.mel_std
        self._matrices: list[RealArray] = []
        self._biases: list[RealArray] = []
        inputs = config.in_channels
        for layer, kernel in enumerate(self.kernel_sizes):
            name = f"f0_predictor.condnet.{2 * layer}"
            kernels = folded_weight(weights, name)
            _check_shape(name, kernels.shape, (config.f0_channels, inputs, kernel))
            # One product serves all taps: a row of its left side is the taps one after the other.
            matrix = kernels.transpose(2, 1, 0).reshape(kernel * inputs, config.f0_channels)
            self._matrices.append(np.ascontiguousarray(matrix, self.precision))
            self._biases.append(_tensor(weights, f"{name}.bias").astype(self.precision))
            inputs = config.f0_channels
        self._out = _tensor(weights, "f0_predictor.classifier.weight").astype(self.precision).reshape(-1)
        self._out_bias = _tensor(weights, "f0_predictor.classifier.bias").astype(self.precision).reshape(())
        self._channels = config.f0_channels

    def _normalised(self, mel: FloatArray) -> RealArray:
        normalised: RealArray = ((mel.astype(np.float64) - self._mean) / self._std).astype(self.precision)
        return normalised

    def _frequency(self, x: RealArray) -> RealArray:
        frequency: RealArray = np.abs(x @ self._out + self._out_bias)
        return frequency

    def _layer(self, layer: int, x: RealArray) -> RealArray:
        """Convolution without padding, and ELU."""
        kernel = self.kernel_sizes[layer]
        count = len(x) - kernel + 1
        taps = np.concatenate([x[tap : tap + count] for tap in range(kernel)], axis=1)
        y = taps @ self._matrices[layer] + self._biases[layer]
        activated: RealArray = np.where(y > 0, y, np.expm1(np.minimum(y, 0)))
        return activated


class ConvF0Predictor(F0Layers):
    """The twin of `cosyvoice.hifigan.f0_predictor.ConvF0Predictor`, for a mel that is given as a whole."""

    kernel_sizes = SYMMETRIC_KERNEL_SIZES
    precision = np.float64

    def predict(self, mel: FloatArray) -> RealArray:
        """F0 [frames] in Hz of `mel` [frames, in_channels]."""
        x = self._normalised(mel)
        for layer, kernel in enumerate(self.kernel_sizes):
            x = self._layer(layer, np.pad(x, ((kernel // 2, kernel // 2), (0, 0))))
        return self._frequency(x)


@dataclass
class F0State:
    """What the next frames need of the past."""

    contexts: list[RealArray]
    """Last inputs of each causal convolution, [kernel size - 1, channels]."""


class F0Predictor(F0Layers):
    """The twin of `CausalConvF0Predictor`, for a mel that grows."""

    kernel_sizes = KERNEL_SIZES
    precision = np.float64

    def init_state(self) -> F0State:
        """An utterance that begins."""
        return F0State([np.zeros((kernel - 1, self._channels)) for kernel in self.kernel_sizes[1:]])

    def step(self, mel: FloatArray, state: F0State, finalize: bool = False) -> RealArray:
        """F0 [frames - LOOK_RIGHT] in Hz of the frames that follow those of the last step.

        `mel` [frames, in_channels] begins with the first frame whose F0 was not given yet; the last
        `LOOK_RIGHT` frames are context. With `finalize` the utterance ends with `mel`, and F0 of all frames
        comes out. `state` is changed.
        """
        x = self._normalised(mel)
        if finalize:
            x = np.concatenate([x, np.zeros((LOOK_RIGHT, x.shape[1]))])
        if len(x) <= LOOK_RIGHT:
            return np.zeros(0)
        x = self._layer(0, x)
        for index, context in enumerate(state.contexts):
            x = np.concatenate([context, x])
            state.contexts[index] = x[len(x) - len(context) :].copy()
            x = self._layer(index + 1, x)
        return self._frequency(x)


def folded_weight(weights: Mapping[str, NDArray[Any]], name: str) -> DoubleArray:
    """The weight of the layer `name` in double precision, whatever way its weight norm is kept.

    w = g v / ||v|| with one norm for each output channel (Salimans and Kingma 2016, equation 2).
    """
    if f"{name}.weight" in weights:
        return weights[f"{name}.weight"].astype(np.float64)
    for gain, direction in WEIGHT_NORM_NAMES:
        if f"{name}.{gain}" in weights and f"{name}.{direction}" in weights:
            return normalised_weight(weights[f"{name}.{gain}"], weights[f"{name}.{direction}"])
    raise ModelError(f"the vocoder's weights lack {name + '.weight'!r}; convert the model again")


WEIGHT_NORM_NAMES = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)
"""Gain and direction of a weight norm, as older and newer PyTorch name them."""


def normalised_weight(gain: NDArray[Any], direction: NDArray[Any]) -> DoubleArray:
    """g v / ||v|| in double precision; the norm is over all dimensions but the first."""
    v = direction.astype(np.float64)
    norm = np.sqrt(np.sum(v * v, axis=tuple(range(1, v.ndim)), keepdims=True))
    return gain.astype(np.float64).reshape(norm.shape) * v / norm


def _tensor(weights: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in weights:
        raise ModelError(f"the vocoder's weights lack {name!r}; convert the model again")
    return weights[name]


def _check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ModelError(
            f"the weight of {name!r} has the shape {shape}, the configuration beside it asks for {expected}; "
            "convert the model again"
        )
