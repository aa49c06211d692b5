"""Layouts of several items as one padded batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosyvoice.llm.layout import IGNORED, Kind, Layout


@dataclass(frozen=True)
class PackedBatch:
    """A padded batch of layouts; every tensor is [batch, time] but `lengths` [batch]."""

    kinds: Tensor
    """`Kind` of every row; guided losses find text and speech columns with it."""
    ids: Tensor
    targets: Tensor
    lengths: Tensor


def pack(layouts: Sequence[Layout], device: torch.device | None = None) -> PackedBatch:
    """Pad layouts on the right: kind `PAD`, id 0, target `IGNORED`."""
    lengths = [len(layout.rows) for layout in layouts]
    shape = (len(layouts), max(lengths))
    kinds = torch.full(shape, int(Kind.PAD), dtype=torch.long)
    ids = torch.zeros(shape, dtype=torch.long)
    targets = torch.full(shape, IGNORED, dtype=torch.long)
    for i, (rows, target) in enumerate(layouts):
        pairs = torch.tensor(rows, dtype=torch.long)
        kinds[i, : len(rows)], ids[i, : len(rows)] = pairs[:, 0], pairs[:, 1]
        targets[i, : len(rows)] = torch.tensor(target, dtype=torch.long)
    return PackedBatch(kinds.to(device), ids.to(device), targets.to(device), torch.tensor(lengths, device=device))
