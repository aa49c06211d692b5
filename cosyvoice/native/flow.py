"""The flow stage of V3 on ONNX Runtime: see `ChunkedFlowStage`.

Its encoder is small and runs in NumPy, for any run of frames by itself. Of the estimator, all that stays the same over
the steps of the solver is computed once: the conditions' part of the input projection, and the modulation of the layer
norms by the flow time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import FlowConfig
from cosyvoice.engine.stages import FloatArray, FlowInput
from cosyvoice.native.chunked_flow import PROMPT_CACHE_BYTES, WEIGHTS, CacheLayout, CacheType, ChunkedFlowStage
from cosyvoice.native.flow_cache import FlowContext
from cosyvoice.native.flow_encoder import POSITION_CONTEXT, FlowEncoder, FlowVoice, modulations
from cosyvoice.native.runtime import Engine
from cosyvoice.native.solver import FlowOptions, SolverPlan


def cache_layout(config: FlowConfig) -> CacheLayout:
    """What the estimator carries from one chunk to the next."""
    dit = config.dit
    return CacheLayout(((dit.dim, POSITION_CONTEXT),) * 2, dit.depth, dit.heads, dit.dim_head)


def cache_values(config: FlowConfig, plan: SolverPlan) -> int:
    """Numbers that are cached for each mel frame: keys and values of every layer, row and evaluation."""
    return plan.rows * cache_layout(config).values


class NativeFlowStage(ChunkedFlowStage):
    """Flow of a converted V3 model; arguments and errors are those of `ChunkedFlowStage`."""

    def __init__(
        self,
        directory: Path,
        config: FlowConfig,
        engine: Engine,
        options: FlowOptions | None = None,
        max_context: int | None = None,
        *,
        cache_type: CacheType = "float32",
        prompt_cache_bytes: int = PROMPT_CACHE_BYTES,
        noise: FloatArray | None = None,
    ) -> None:
        self.config = config
        layout, chunk = cache_layout(config), config.dit.static_chunk_size
        super().__init__(
            directory, config, chunk, layout, engine, options, max_context, cache_type, prompt_cache_bytes, noise
        )
        self._encoder = FlowEncoder(Path(directory) / WEIGHTS, config)
        self._modulations = modulations(Path(directory) / WEIGHTS, config, self.plan.times)

    def _voice(self, inputs: FlowInput) -> FlowVoice:
        return self._encoder.voice(inputs)

    def _checked(self, tokens: Sequence[int]) -> NDArray[np.int64]:
        return self._encoder.checked(tokens)

    def _conditions(
        self,
        voice: FlowVoice,
        tokens: NDArray[np.int64],
        first: int,
        end: int,
        context: FlowContext | None,
        keep: bool,
    ) -> dict[str, Any]:
        cos, sin = self._encoder.angles(first, end)
        return {"projected": self._encoder.projected(voice, tokens, first, end), "cos": cos, "sin": sin}

    def _evaluation_inputs(self, conditions: dict[str, Any], evaluation: int) -> dict[str, Any]:
        rows = 2 if self.plan.guided[evaluation] else 1
        projected = conditions["projected"][:rows]
        return {**conditions, "projected": projected, "modulation": self._modulations[evaluation]}
