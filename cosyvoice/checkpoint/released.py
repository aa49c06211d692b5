"""Weights of the released layout: `.pt` files read as data, every spelling of their keys brought to one.

`torch.load(weights_only=True)` unpickles tensors and plain containers only, so a hostile file cannot run
code.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from cosyvoice.errors import ModelError

# A training checkpoint carries these beside the weights.
_TRAINING_ENTRIES = frozenset({"epoch", "step"})
_DISCRIMINATOR = "discriminator."
_GENERATOR = "generator."
_WEIGHT_NORM = re.compile(r"(^|\.)weight_([gv])$")
_PARAMETRIZED = {"g": "parametrizations.weight.original0", "v": "parametrizations.weight.original1"}


def _load(path: Path) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path} is missing; copy the complete model directory")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
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
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ModelError(f"{path} holds no table of named entries; it is not a checkpoint of a released model")
    return data


def normalise_key(key: str) -> str:
    """The one spelling of a weight's name: no `generator.` prefix, weight norm in its parametrization form.

    `weight_g` (magnitude) and `weight_v` (direction) are the older spelling of
    `parametrizations.weight.original0` and `.original1`.
    """
    return _WEIGHT_NORM.sub(lambda match: match[1] + _PARAMETRIZED[match[2]], key.replace(_GENERATOR, ""))


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Weights of `llm.pt`, `flow.pt` or `hift.pt`, on the CPU in the type of the file, keys normalised.

    `epoch` and `step` of training checkpoints and the discriminators of adversarial ones are left out.

    Raises:
        ModelError: the file is missing or damaged, holds anything but tensors, or names one weight twice.
    """
    weights: dict[str, torch.Tensor] = {}
    for key, value in _load(path).items():
        if key in _TRAINING_ENTRIES or key.startswith(_DISCRIMINATOR):
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
