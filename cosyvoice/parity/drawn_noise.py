"""The random numbers of a recorded call of a vocoder that draws them anew each time, in the order of its draws.

Uniform numbers for the initial phases, standard normal ones for the noise, and noise that nothing reads. Where the
phase moves sample by sample, harmonics come before samples. Otherwise they come behind, but in a tensor that was
transposed, which PyTorch fills number by number in another way than one in order.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosyvoice.config.model import HiFTConfig
from cosyvoice.engine.stages import FloatArray
from cosyvoice.errors import ModelError
from cosyvoice.parity.golden import Topic

_SEED = re.compile(r"manual_seed\((\d+)\)")


@dataclass(frozen=True)
class Draws:
    """Of one call."""

    uniform: Tensor
    """[batch, channels] in [0, 1)."""
    noise: Tensor
    """[batch, samples, channels], standard normal."""
    unused: Tensor
    """[batch, samples, 1], standard normal."""
    phases: Tensor
    """Initial phases [batch, channels] in radians. Where the phase is known once a frame, what is drawn for them has no
    effect."""


def draw(config: HiFTConfig, seed: int, batch: int, samples: int) -> Draws:
    """What a call draws after the global generator was seeded with `seed`."""
    generator, channels = torch.Generator().manual_seed(seed), config.nb_harmonics + 1
    uniform = torch.rand(batch, channels, generator=generator)
    phases = torch.zeros(batch, channels)
    if config.source_phase == "sample":
        phases = without_fundamental(2 * math.pi * uniform - math.pi)
        noise = torch.randn(batch, channels, samples, generator=generator).transpose(1, 2)
    else:
        noise = torch.empty(batch, channels, samples).transpose(1, 2).normal_(generator=generator)
    return Draws(uniform, noise, torch.randn(batch, samples, 1, generator=generator), phases)


def without_fundamental(values: Tensor) -> Tensor:
    """`values` [batch, channels] with 0 for the fundamental."""
    values = values.clone()
    values[:, 0] = 0.0
    return values


def recorded_seed(topic: Topic, tensor: str) -> int:
    """The seed before the call that made a recorded tensor, which its description tells.

    Raises `ModelError` where it does not.
    """
    description = topic.meta.get("tensors", {}).get(tensor, {}).get("desc", "")
    match = _SEED.search(description)
    if match is None:
        raise ModelError(
            f"golden/{topic.name}.meta.json tells no seed of {tensor!r} (as manual_seed(60)); record the topic again"
        )
    return int(match[1])


class RecordedDraws:
    """`SourceDraws` of an utterance whose calls of the vocoder were seeded with `seed`, `seed` + 1 and so on.

    For the setting "released", where every chunk asks for phases and then for all its noise.
    """

    def __init__(self, config: HiFTConfig, seed: int) -> None:
        self._config, self._seed = config, seed

    def phases(self) -> FloatArray:
        """See `SourceDraws`."""
        self._seed += 1
        return _array(draw(self._config, self._seed - 1, 1, 1).phases)

    def normal(self, length: int) -> FloatArray:
        """See `SourceDraws`."""
        return _array(draw(self._config, self._seed - 1, 1, length).noise)


def _array(values: Tensor) -> FloatArray:
    """The only row of a batch."""
    array: FloatArray = np.ascontiguousarray(values[0].numpy())
    return array
