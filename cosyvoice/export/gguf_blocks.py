"""GGUF blocks laid out anew for ONNX Runtime's MatMulNBits, bit by bit: no weight is rounded a second time.

Both formats have blocks of 32 inputs and one scale a block, and differ only in where things stand. Q8_0 keeps signed
bytes, MatMulNBits unsigned ones around 128. Q4_0 keeps the first half of a block in the low and the second in the high
halves of its bytes, MatMulNBits neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.checkpoint.gguf_file import BLOCK, BLOCK_TYPES, Blocks, Tensor, numbers
from cosyvoice.errors import ConfigError
from cosyvoice.export.llm_graph import quantised_part

BITS = {"Q8_0": 8, "Q4_0": 4}
_SCALE_BYTES = 2


def laid_out(blocks: Blocks) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """q [out, blocks, bytes] and scales [out, blocks] of a matrix, in the layout of `quantise_linear`.

    Raises `ConfigError` for blocks of another type than Q8_0 and Q4_0.
    """
    if blocks.type not in BLOCK_TYPES:
        raise ConfigError(f"blocks of type {blocks.type} cannot be run as they are; turn them into numbers first")
    size = _SCALE_BYTES + BLOCK * BITS[blocks.type] // 8
    stored = np.ascontiguousarray(blocks.data).reshape(len(blocks.data), -1, size)
    scales = np.ascontiguousarray(stored[..., :_SCALE_BYTES]).view(np.float16)[..., 0]
    levels = stored[..., _SCALE_BYTES:]
    if blocks.type == "Q8_0":
        # Adding 128 to a signed byte turns its highest bit over.
        return np.ascontiguousarray(levels ^ np.uint8(128)), scales
    inner = np.concatenate([levels & np.uint8(15), levels >> np.uint8(4)], axis=-1)
    return np.ascontiguousarray(inner[..., 0::2] | (inner[..., 1::2] << np.uint8(4))), scales


def runnable_llm(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Weights of a language model as a bundle holds them: blocks that the graph can multiply by stay blocks.

    `NAME` becomes `NAME.q` and `NAME.scales`, as in `quantise_llm`. Blocks of other types, K-quants among them, and
    those of tables become numbers in single precision.
    """
    result: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Blocks) and tensor.type in BLOCK_TYPES and quantised_part(name) is not None:
            result[f"{name}.q"], result[f"{name}.scales"] = laid_out(tensor)
        else:
            result[name] = numbers(tensor)
    return result


def bits_of(tensors: Mapping[str, Tensor]) -> set[int]:
    """Bits of the weights that `runnable_llm` leaves in blocks."""
    return {
        BITS[tensor.type]
        for name, tensor in tensors.items()
        if isinstance(tensor, Blocks) and tensor.type in BITS and quantised_part(name) is not None
    }
