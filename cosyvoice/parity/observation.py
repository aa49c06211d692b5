"""Stand-ins for networks: flow and vocoder that note their calls, and a language model that says what it is told.

Flow and vocoder are wrapped, not changed: a stage calls the wrapper, which passes every call on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cosyvoice.engine.stages import FloatArray, LLMInput
from cosyvoice.parity.golden import TOLERANCE, Topic


@dataclass
class Calls:
    """What flow and vocoder were called with and what they returned."""

    flow: list[dict[str, Any]] = field(default_factory=list)
    hift: list[dict[str, Any]] = field(default_factory=list)
    recorded_mels: Callable[[int], list[Tensor]] = lambda index: []
    """What was recorded that may have been the mel of a call of the vocoder."""

    def begin(self, topic: Topic, case: str) -> None:
        """Forget the calls; those that follow belong to `case`."""
        self.flow.clear()
        self.hift.clear()

        def recorded_mels(index: int) -> list[Tensor]:
            # Where the vocoder got what the flow had returned, it was recorded once.
            names = (f"{case}.hift{index}.mel", f"{case}.flow{index}.mel")
            return [torch.from_numpy(topic[name]) for name in names if name in topic]

        self.recorded_mels = recorded_mels


class ObservedFlow:
    """Stands before the flow network and notes its calls."""

    def __init__(self, network: Any, calls: Calls) -> None:
        self._network, self._calls = network, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def inference(self, token: Tensor, *args: Any, **options: Any) -> Tensor:
        mel: Tensor = self._network.inference(token, *args, **options)
        self._calls.flow.append({"token": token.clone(), "mel": mel, **options})
        return mel


class ObservedVocoder:
    """Stands before the vocoder network and notes its calls, each with the source signal it made."""

    def __init__(self, network: Any, calls: Calls) -> None:
        self._network, self._calls = network, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def inference(self, mel: Tensor, noise: Any, finalize: bool = True) -> Tensor:
        own, _ = self._run(mel, noise, finalize)
        samples, source = self._run(self._recorded_mel(mel), noise, finalize)
        call = {"mel": mel, "source": source, "own": own, "samples": samples, "finalize": finalize}
        self._calls.hift.append(call)
        return samples

    def _run(self, mel: Tensor, noise: Any, finalize: bool) -> tuple[Tensor, Tensor]:
        sources: list[Tensor] = []
        hook = self._network.m_source.register_forward_hook(lambda _, __, source: sources.append(source))
        try:
            return self._network.inference(mel, noise, finalize), sources[0]
        finally:
            hook.remove()

    def _recorded_mel(self, mel: Tensor) -> Tensor:
        """The record of `mel`; `mel` itself where there is none, or it differs."""
        for recorded in self._calls.recorded_mels(len(self._calls.hift)):
            if recorded.shape == mel.shape and float((recorded - mel).abs().max()) <= TOLERANCE:
                return recorded
        return mel


class ForcedLLM:
    """A language model that can say one sequence only."""

    def __init__(self, tokens: Sequence[int], end: int, outputs: int) -> None:
        self._sequence, self._outputs = [*tokens, end], outputs
        self.inputs: list[LLMInput] = []

    def init_state(self, inputs: LLMInput) -> int:
        self.inputs.append(inputs)
        return 0

    def step(self, token: int | None, state: int) -> tuple[FloatArray, int]:
        scores = np.full(self._outputs, -np.inf, np.float32)
        scores[self._sequence[state]] = 0.0
        return scores, state + 1

    def release(self, state: int) -> None:
        """Nothing is held."""
