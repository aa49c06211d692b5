"""The names of weights in released files, every spelling of them brought to one."""

from __future__ import annotations

import re

TRAINING_ENTRIES = frozenset({"epoch", "step"})
"""What a training checkpoint carries beside the weights."""
_DISCRIMINATOR = "discriminator."
_GENERATOR = "generator."
_WEIGHT_NORM = re.compile(r"(^|\.)weight_([gv])$")
_PARAMETRIZED = {"g": "parametrizations.weight.original0", "v": "parametrizations.weight.original1"}


def is_weight(key: str) -> bool:
    """Whether an entry of a file belongs to a network: not a counter of the training, not its discriminators."""
    return key not in TRAINING_ENTRIES and not key.startswith(_DISCRIMINATOR)


def normalise_key(key: str) -> str:
    """The one spelling of a weight's name: no `generator.` prefix, weight norm in its parametrization form.

    `weight_g` (magnitude) and `weight_v` (direction) are the older spelling of
    `parametrizations.weight.original0` and `.original1`.
    """
    return _WEIGHT_NORM.sub(lambda match: match[1] + _PARAMETRIZED[match[2]], key.replace(_GENERATOR, ""))
