"""Weights of the released layout: `.pt` files read as data, every spelling of their keys brought to one.

What a file says of itself is checked before it is loaded, and `torch.load(weights_only=True)` unpickles tensors and
plain containers only, so a hostile file can neither run code nor take memory that it does not fill.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cosyvoice.checkpoint.keys import is_weight, normalise_key
from cosyvoice.checkpoint.pt_header import read_pt_header
from cosyvoice.errors import ModelError, OutputError


def _load(path: Path) -> dict[str, Any]:
    path = Path(path)
    read_pt_header(path)
    try:
        data: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        AttributeError,
    ) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{path} is damaged or holds more than tensors ({reason}); download it from a source you trust"
        ) from None
    return data


def weights_path(model_dir: Path, network: str, variant: str = "") -> Path:
    """The file of a released network, `llm.pt`; that of a `variant` lies beside it, `llm.rl.pt` for "rl".

    Raises:
        ModelError: there is no such file; the message names the variants that are there.
    """
    path = Path(model_dir) / (f"{network}.{variant}.pt" if variant else f"{network}.pt")
    if not path.is_file():
        others = sorted(file.name for file in Path(model_dir).glob(f"{network}*.pt"))
        there = f"there are {', '.join(others)}" if others else "copy the complete model directory"
        raise ModelError(f"{path} is missing; {there}")
    return path


def network_paths(model_dir: Path, variant: str = "") -> dict[str, Path]:
    """The files of a released model's networks; a `variant` is one of the language model, the rest stay as they are.

    Raises:
        ModelError: the language model has no such variant.
    """
    paths = {network: Path(model_dir) / f"{network}.pt" for network in ("llm", "flow", "hift")}
    return {**paths, "llm": weights_path(model_dir, "llm", variant)} if variant else paths


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Weights of `llm.pt`, `flow.pt` or `hift.pt`, on the CPU in the type of the file, keys normalised.

    `epoch` and `step` of training checkpoints and the discriminators of adversarial ones are left out.

    Raises:
        ModelError: the file is missing or damaged, holds anything but tensors, or names one weight twice.
    """
    weights: dict[str, torch.Tensor] = {}
    for key, value in _load(path).items():
        if not is_weight(key):
            continue
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"{path}: entry {key!r} is a {type(value).__name__}, not a tensor; not a flat checkpoint")
        name = normalise_key(key)
        if name in weights:
            raise ModelError(f"{path} holds {name!r} twice, under two spellings; keep one of them")
        weights[name] = value
    if not weights:
        raise ModelError(f"{path} holds no weights; it is not a checkpoint of a released model")
    return weights


def load_spk2info(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Built-in and saved speakers of `spk2info.pt`: name to entries.

    Built-in speakers have `embedding` [1, 192]; saved ones have the prompt tensors (`prompt_text` [1, text],
    `llm_prompt_speech_token` [1, tokens], `prompt_speech_feat` [1, frames, 80], `flow_embedding` [1, 192],
    and lengths).

    Raises:
        ModelError: the file is missing, damaged, or not a table of tables of tensors.
    """
    speakers = _load(path)
    for name, entries in speakers.items():
        if not isinstance(entries, dict) or not all(isinstance(item, torch.Tensor) for item in entries.values()):
            raise ModelError(f"{path}: speaker {name!r} is not a table of tensors; save the speaker again")
    return speakers


def write_spk2info(path: Path, speakers: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    """Write a table of speakers, as `load_spk2info` reads it, complete or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    path = Path(path)
    table = {
        name: {entry: torch.from_numpy(np.array(value)) for entry, value in entries.items()}
        for name, entries in speakers.items()
    }
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose another directory") from None
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(table, file)
        # mkstemp makes files that only their owner may read.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{path} cannot be written ({error}); is the disk full?") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
