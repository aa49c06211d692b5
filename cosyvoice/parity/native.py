"""Parity of the native engine with the recorded tensors, stage by stage and as a whole.

What is recorded of the reference's networks from inside, and of training, has no counterpart here: it is left out
and counted. Text and audio features are the same code with every engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cosyvoice.parity import e2e, native_flow, native_hift, native_llm
from cosyvoice.parity.converted import INSIDE, Converted, inside
from cosyvoice.parity.golden import ParityFolder, Row
from cosyvoice.parity.observed_model import native_loader


def check_e2e(converted: Converted) -> Iterator[Row]:
    """Rows of the topic `vN_e2e`: the pipeline's session on native stages."""

    yield from e2e.check(converted.folder, converted.generation, native_loader(converted.bundle))


CHECKS: dict[str, Callable[[Converted], Iterator[Row]]] = {
    "llm": native_llm.check,
    "flow": native_flow.check,
    "hift": native_hift.check,
    "e2e": check_e2e,
}
"""Checks that take the place of the reference's."""


def left_out(folder: ParityFolder, generations: Sequence[str]) -> dict[str, int]:
    """How many recorded tensors of each topic only the reference has."""
    counts: dict[str, int] = {}
    for generation in generations:
        for topic in INSIDE:
            name = topic.format(generation)
            if tensors := inside(folder, generation, name):
                counts[name] = len(tensors)
    return counts
