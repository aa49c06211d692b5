"""Weights of our own model directories: safetensors, half precision on disk, single precision in memory."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cosyvoice.errors import ModelError, OutputError


def write_weights(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write `weights` to `path`; floating-point tensors as `dtype`, all others as they are.

    The file appears complete or not at all: it is written beside its place and then renamed.

    Raises:
        ModelError: a value is not finite, or does not fit `dtype`.
        OutputError: the place cannot be written.
    """
    path = Path(path)
    converted = {name: _convert(name, tensor, dtype) for name, tensor in weights.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose another directory") from None
    try:
        save_file(converted, temporary, metadata=dict(metadata or {}))
        # mkstemp makes files that only their owner may read; weights are shared like any other file.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} cannot be written ({error}); is the disk full?") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _convert(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return tensor.clone().contiguous()
    converted = tensor.to(dtype)
    if not bool(torch.isfinite(converted).all()):
        if bool(torch.isfinite(tensor).all()):
            raise ModelError(f"weight {name!r} holds values beyond the range of {dtype}; write it as torch.float32")
        raise ModelError(f"weight {name!r} holds values that are not finite; the training has diverged")
    # Tied weights share memory, which the format refuses; a clone makes each stand alone.
    return converted.clone().contiguous()


def read_weights(
    path: Path, dtype: torch.dtype | None = torch.float32
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Weights and metadata of `path`, on the CPU; floating-point tensors as `dtype` (None: as on disk).

    Raises:
        ModelError: the file is missing or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path} is missing; copy the complete model directory")
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is no intact safetensors file ({error}); download it again") from None
    if dtype is not None:
        weights = {n: t.to(dtype) if t.is_floating_point() else t for n, t in weights.items()}
    return weights, metadata
