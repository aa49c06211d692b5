from __future__ import annotations

import random

import numpy as np
import torch

from cosyvoice.engine.instructions import is_known
from cosyvoice.utils.common import instruct_list, set_all_random_seed


def test_all_generators_begin_anew() -> None:
    drawn = []
    for _ in range(2):
        set_all_random_seed(11)
        legacy = float(np.random.rand())  # noqa: NPY002 - what programs of the released package draw from
        drawn.append((random.random(), legacy, float(torch.rand(1))))
    assert drawn[0] == drawn[1]


def test_the_list_holds_what_the_model_knows() -> None:
    assert all(is_known(line) for line in instruct_list)
