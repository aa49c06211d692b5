"""Seeding and the list of instructions under the names that programs written for the released package use.

The classes of `cosyvoice.cli.cosyvoice` draw the seed of every utterance from PyTorch's global generator, so a program
that seeds the process gets the same speech again. Nothing else in the project looks at that generator.
"""

from __future__ import annotations

import random

import numpy as np

from cosyvoice.engine.instructions import DEFAULT_INSTRUCTION, KNOWN_INSTRUCTIONS, complete_instruction

instruct_list = [complete_instruction(instruction, DEFAULT_INSTRUCTION) for instruction in KNOWN_INSTRUCTIONS]
"""What the released V3 model can be told, as it reads it."""


def set_all_random_seed(seed: int) -> None:
    """Seed Python, NumPy and PyTorch for the whole process."""
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the programs that call this expect the global generator
    torch.manual_seed(seed)
