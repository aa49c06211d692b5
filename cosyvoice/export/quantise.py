"""Block quantisation of linear layers to the layout of ONNX Runtime's MatMulNBits.

Each row of a matrix is cut into blocks of inputs, and each block keeps one scale: w ≈ scale * (q - 2^(bits-1)), with
q in 0..2^bits - 1. The scale is searched for, because the one that just fits the largest weight of a block wastes
levels on it: at four bits a slightly smaller one gives a lower mean squared error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.errors import ConfigError, ModelError

BITS = (4, 8)
SMALLEST_BLOCK = 16
_TRIED_FACTORS = {4: (1.0, 0.96, 0.92, 0.88, 0.84, 0.8), 8: (1.0,)}
"""What the scale that fits the largest weight is multiplied by, to find the best one."""


def fitting_block(inputs: int, block: int) -> int:
    """The block size for a layer of `inputs`: `block`, or the power of two that holds a narrower layer.

    So the shape of a quantised tensor and the width of its layer tell bits and block (`quantised_format`).
    """
    while block > SMALLEST_BLOCK and block // 2 >= inputs:
        block //= 2
    return block


def quantise_linear(
    weight: NDArray[np.floating], bits: int, block: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantise `weight` [out, in] symmetrically in blocks of `block` inputs.

    Returns q [out, blocks, bytes] and scales [out, blocks]. At four bits a byte holds two neighbours, the first in
    its low half. Where `in` is no multiple of the block, the last block is filled up with zeros; a layer narrower
    than half a block gets a smaller one. A scale may be negative: the side of zero with one more level is given to
    the weight of largest magnitude.

    Raises `ConfigError` for a number of bits or a block that does not exist, and `ModelError` for a matrix that is
    not one or is not finite.
    """
    _check(bits, block)
    if weight.ndim != 2 or weight.size == 0:
        raise ModelError(f"a linear layer has a matrix, not a tensor of shape {weight.shape}; keep it as it is")
    if not np.isfinite(weight).all():
        raise ModelError("a weight to be quantised is not finite; the model is damaged, so take an intact copy of it")
    outputs, inputs = weight.shape
    block = fitting_block(inputs, block)
    blocks = -(-inputs // block)
    padded = np.zeros((outputs, blocks * block), np.float32)
    padded[:, :inputs] = weight
    values = padded.reshape(outputs, blocks, block)
    scales = _best_scales(values, bits)
    levels: NDArray[np.uint8] = _levels(values, scales, bits).astype(np.uint8)
    if bits == 4:
        levels = levels[..., 0::2] | (levels[..., 1::2] << np.uint8(4))
    return np.ascontiguousarray(levels), scales


def dequantise(q: NDArray[np.uint8], scales: NDArray[np.float32], bits: int, inputs: int) -> NDArray[np.float32]:
    """The matrix [out, inputs] that `q` [out, blocks, bytes] and `scales` [out, blocks] stand for."""
    if bits == 4:
        q = np.stack([q & 15, q >> 4], axis=-1).reshape(*q.shape[:2], -1)
    values = (q.astype(np.float32) - 2.0 ** (bits - 1)) * scales[..., None]
    return np.ascontiguousarray(values.reshape(len(q), -1)[:, :inputs])


def quantisation_error(weight: NDArray[np.floating], bits: int, block: int) -> float:
    """Root mean square of the error of the weights, relative to that of the weights themselves."""
    restored = dequantise(*quantise_linear(weight, bits, block), bits, weight.shape[1])
    power = float(np.mean(np.square(weight, dtype=np.float64)))
    return float(np.sqrt(np.mean(np.square(restored - weight, dtype=np.float64)) / power)) if power else 0.0


def quantised_format(shape: list[int], inputs: int) -> tuple[int, int]:
    """Bits and block of a quantised tensor of `shape` [out, blocks, bytes], for a layer of `inputs`.

    Raises `ModelError` where no format gives that shape.
    """
    for bits in BITS:
        block = shape[-1] * 8 // bits
        if block >= SMALLEST_BLOCK and fitting_block(inputs, block) == block and -(-inputs // block) == shape[1]:
            return bits, block
    raise ModelError(
        f"a quantised tensor of shape {shape} fits no layer of {inputs} inputs; it does not belong to the "
        "configuration beside it, so convert the model again"
    )


def as_numbers(weights: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """`weights` of a network with every quantised matrix as the numbers that it stands for, in single precision.

    `NAME.q` and `NAME.scales` become `NAME`, whose shape [out, in] is one of `shapes`; all else stays as it is. What
    quantisation rounded away does not come back.

    Raises `ModelError` for quantised tensors that fit no matrix of `shapes`.
    """
    numbers: dict[str, NDArray[Any]] = {}
    for name, tensor in weights.items():
        matrix = name.removesuffix(".q")
        if matrix == name:
            if not (name.endswith(".scales") and f"{name.removesuffix('.scales')}.q" in weights):
                numbers[name] = tensor
            continue
        shape, scales = shapes.get(matrix, ()), weights.get(f"{matrix}.scales")
        if len(shape) != 2 or scales is None:
            raise ModelError(f"{name!r} belongs to no matrix of the configuration beside it; copy the complete bundle")
        numbers[matrix] = _matrix(tensor, np.asarray(scales, np.float32), shape[1])
        if numbers[matrix].shape != shape:
            raise ModelError(
                f"{name!r} stands for a matrix {numbers[matrix].shape}, the configuration beside it asks for {shape}; "
                "copy the complete bundle"
            )
    return numbers


def _matrix(q: NDArray[Any], scales: NDArray[np.float32], inputs: int) -> NDArray[np.float32]:
    """[out, inputs] of blocks [out, blocks, bytes], or of whole numbers [inputs, out] with one scale an output."""
    if q.ndim == 2:
        return np.ascontiguousarray(q.astype(np.float32).T * scales[:, None])
    bits, _ = quantised_format(list(q.shape), inputs)
    return dequantise(q, scales, bits, inputs)


def _check(bits: int, block: int) -> None:
    if bits not in BITS:
        raise ConfigError(f"weights cannot be quantised to {bits} bits; choose one of {BITS}")
    if block < SMALLEST_BLOCK or block & (block - 1):
        raise ConfigError(f"a block of {block} weights cannot be; choose a power of two from {SMALLEST_BLOCK} on")


def _best_scales(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Scales [out, blocks] of `values` [out, blocks, block] with the least squared error among those tried."""
    half = 2 ** (bits - 1)
    largest = np.take_along_axis(values, np.abs(values).argmax(-1)[..., None], axis=-1)[..., 0]
    fitting = largest / np.float32(-half)
    # A block of zeros has no scale; any will do.
    fitting = np.where(fitting == 0.0, np.float32(1.0), fitting)
    best, least = fitting, np.full(fitting.shape, np.inf, np.float32)
    for factor in _TRIED_FACTORS[bits]:
        scales = fitting * np.float32(factor)
        restored = (_levels(values, scales, bits) - np.float32(half)) * scales[..., None]
        restored -= values
        error = np.einsum("obi,obi->ob", restored, restored)
        best = np.where(error < least, scales, best)
        least = np.minimum(error, least)
    return np.ascontiguousarray(best, np.float32)


def _levels(values: NDArray[np.float32], scales: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """The whole numbers 0..2^bits - 1 nearest to `values` at `scales`."""
    levels = values / scales[..., None]
    levels += np.float32(2 ** (bits - 1))
    np.rint(levels, out=levels)
    return np.clip(levels, 0, 2**bits - 1, out=levels)
