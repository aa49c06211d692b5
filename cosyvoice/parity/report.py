"""Rows of one topic as a check fills them in, and what becomes of recorded tensors that it did not reproduce."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.parity.golden import TOLERANCE, Row, Topic, compare, exact


@dataclass
class Report:
    """Rows of a topic. `inputs` are recorded tensors that are fed and so cannot be reproduced."""

    topic: Topic
    rows: dict[str, Row] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)

    @property
    def options(self) -> dict[str, Any]:
        """The settings of the recording."""
        options: dict[str, Any] = self.topic.meta.get("options", {})
        return options

    def input(self, name: str) -> NDArray[Any]:
        """A recorded tensor to feed."""
        self.inputs.add(name)
        return self.topic[name]

    def ids(self, name: str) -> list[int]:
        """A recorded tensor of ids to feed, as a flat list."""
        return [int(i) for i in self.input(name).ravel()]

    def compare(
        self,
        name: str,
        ours: Any,
        tolerance: float = TOLERANCE,
        note: str = "",
        recorded: NDArray[Any] | None = None,
    ) -> None:
        """Compare with `recorded`, by default the recorded tensor `name`, if there is one."""
        if recorded is None:
            if name not in self.topic:
                return
            recorded = self.topic[name]
        self.rows[name] = compare(self.topic.name, name, ours, recorded, tolerance, note)

    def exact(self, name: str, ours: Any, recorded: Any = None) -> None:
        """Compare ids with `recorded`, by default the recorded tensor `name`, if there is one."""
        if recorded is None:
            if name not in self.topic:
                return
            recorded = self.topic[name]
        self.rows[name] = exact(self.topic.name, name, ours, recorded)

    def compare_either(self, name: str, ours: Any, other: Any, tolerance: float, made_of: str = "mel") -> None:
        """Compare `ours` with the recorded tensor `name`, if there is one; where it fails, `other` is judged instead.

        `other` is what the recorded `made_of` gives, which is judged by a row of its own; its row tells in the note
        how far `ours` is off. None: there is no other.
        """
        if name not in self.topic:
            return
        own = compare(self.topic.name, name, ours, self.topic[name], tolerance)
        if own.passed or other is None:
            self.rows[name] = own
        else:
            self.compare(name, other, tolerance, f"{own.error:.1e} from our own {made_of}")

    def compare_new(self, name: str, ours: Any, first: int) -> None:
        """Compare `ours` [..., time] from `first` on; of another length than the record it is compared whole."""
        if name in self.topic:
            recorded = self.topic[name]
            start = first if ours.shape == recorded.shape else 0
            self.compare(name, ours[..., start:], recorded=recorded[..., start:])

    def exact_option(self, case: str, key: str, ours: Any, reading: Callable[[Any], Any] = lambda value: value) -> None:
        """Compare with what the options of a case tell; `reading` brings the recorded form to that of `ours`."""
        self.exact(f"{case}.{key}", ours, reading(self.options[case][key]))

    def settings(self, **ours: Any) -> None:
        """Compare recorded settings with ours, as far as they are recorded: lists of floats within the tolerance."""
        for name, value in ours.items():
            if name not in self.options:
                continue
            recorded = self.options[name]
            if isinstance(recorded, list) and all(isinstance(item, float) for item in recorded):
                self.compare(name, np.asarray(value), recorded=np.asarray(recorded))
            else:
                self.rows[name] = exact(self.topic.name, name, value, recorded)

    def finish(self, left_out: Container[str] = ()) -> Iterator[Row]:
        """All rows, failing ones for recorded tensors that nothing has reproduced, unless they are `left_out`."""
        yield from self.rows.values()
        for name in sorted(self.topic.tensors.keys() - self.rows.keys() - self.inputs):
            if name not in left_out:
                yield Row(self.topic.name, name, float("inf"), 0.0, "recorded, but not reproduced by this check")
