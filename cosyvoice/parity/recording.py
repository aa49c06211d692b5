"""A report that takes what a check computes for the record, so that recording and checking are the same code.

What is to be recorded is told by a topic whose outputs are placeholders. A check fills them in where it would compare
them, and notes in the options what it would compare with them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from cosyvoice.audio.io import write_bytes_atomically
from cosyvoice.errors import ModelError, OutputError
from cosyvoice.parity.golden import TOLERANCE, Row, Topic
from cosyvoice.parity.report import Report

PLACEHOLDER = np.zeros(0, np.float32)
"""Stands for a tensor that the check is to compute."""


def planned(
    name: str,
    what: str,
    inputs: dict[str, NDArray[Any]],
    outputs: Container[str] | list[str] = (),
    options: dict[str, Any] | None = None,
    descriptions: dict[str, str] | None = None,
) -> Topic:
    """A topic to be filled in.

    Args:
        name: of the topic.
        what: it is, in words.
        inputs: tensors that are fed.
        outputs: names of tensors that a check looks for before it computes them.
        options: settings of the recording; those that a check tells are added.
        descriptions: of tensors, where a check reads them.
    """
    placeholders = dict.fromkeys(outputs if isinstance(outputs, list) else [], PLACEHOLDER)
    described = {tensor: {"desc": text} for tensor, text in (descriptions or {}).items()}
    return Topic(name, {**inputs, **placeholders}, {"what": what, "options": options or {}, "tensors": described})


class Recording(Report):
    """Takes everything that a check reports into its topic."""

    def compare(
        self,
        name: str,
        ours: Any,
        tolerance: float = TOLERANCE,
        note: str = "",
        recorded: NDArray[Any] | None = None,
    ) -> None:
        """Record `ours`; comparisons with something else than the record of the same name are none of it."""
        if recorded is None:
            self._keep(name, ours)

    def exact(self, name: str, ours: Any, recorded: Any = None) -> None:
        """Likewise."""
        if recorded is None:
            self._keep(name, ours)

    def compare_either(self, name: str, ours: Any, other: Any, tolerance: float, made_of: str = "mel") -> None:
        """Record `ours`."""
        self._keep(name, ours)

    def compare_new(self, name: str, ours: Any, first: int) -> None:
        """Record all of `ours`."""
        self._keep(name, ours)

    def exact_option(self, case: str, key: str, ours: Any, reading: Callable[[Any], Any] = lambda value: value) -> None:
        """Note `ours` in the options of a case."""
        self.options[case][key] = _plain(ours)

    def settings(self, **ours: Any) -> None:
        """Note settings."""
        self.options.update({name: _plain(value) for name, value in ours.items()})

    def finish(self, left_out: Container[str] = ()) -> Iterator[Row]:
        """No rows. Raises `ModelError` where a check has left a placeholder."""
        left = [name for name, value in self.topic.tensors.items() if value is PLACEHOLDER and name not in left_out]
        if left:
            raise ModelError(f"{self.topic.name}: nothing computed {', '.join(left[:3])}; the model lacks that part")
        return iter(())

    def _keep(self, name: str, values: Any) -> None:
        if hasattr(values, "detach"):
            values = values.detach().cpu().numpy()
        array = np.asarray(values)
        if array.size == 0 and array.dtype == np.float64:
            # An empty list of ids has no type of its own.
            array = array.astype(np.int64)
        # A copy, which keeps its values whatever the stage does with the buffer.
        self.topic.tensors[name] = np.array(array, order="C")


def _plain(value: Any) -> Any:
    """As JSON holds it."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def write_topic(topic: Topic, golden: Path, generation: str) -> None:
    """Write a topic as `ParityFolder` reads it. Raises `OutputError` where that cannot be done."""
    import json

    described = topic.meta["tensors"]
    tensors = {
        name: {"shape": list(array.shape), "dtype": str(array.dtype), **described.get(name, {})}
        for name, array in sorted(topic.tensors.items())
    }
    meta = {"file": f"{topic.name}.safetensors", "generation": generation, **topic.meta, "tensors": tensors}
    try:
        save_file(topic.tensors, golden / f"{topic.name}.safetensors")
    except OSError as error:
        raise OutputError(f"{golden} cannot be written ({error}); choose another place") from None
    text = json.dumps(meta, ensure_ascii=False, indent=1)
    write_bytes_atomically(golden / f"{topic.name}.meta.json", text.encode())
