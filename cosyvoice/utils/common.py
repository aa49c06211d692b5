"""Seeding under the name that programs written for the released package use.

The classes of `cosyvoice.cli.cosyvoice` draw the seed of every utterance from PyTorch's global generator, so a program
that seeds the process gets the same speech again. Nothing else in the project looks at that generator.
"""

from __future__ import annotations

import random

import numpy as np


def set_all_random_seed(seed: int) -> None:
    """Seed Python, NumPy and PyTorch for the whole process."""
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the programs that call this expect the global generator
    torch.manual_seed(seed)
