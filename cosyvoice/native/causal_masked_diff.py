"""The flow stage of the second generation on ONNX Runtime: see `ChunkedFlowStage`.

Encoder and U-Net have attention chunks of the same length, and both keep what they need of earlier chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import CausalMaskedDiffConfig
from cosyvoice.engine.stages import FloatArray, FlowInput
from cosyvoice.errors import ConfigError
from cosyvoice.native.chunked_flow import PROMPT_CACHE_BYTES, WEIGHTS, CacheType, ChunkedFlowStage
from cosyvoice.native.flow_cache import EvaluationCache, FlowContext
from cosyvoice.native.flow_voice import VoiceReader, Weights
from cosyvoice.native.runtime import Runtime
from cosyvoice.native.solver import FlowOptions, SolverPlan
from cosyvoice.native.unet import ENCODER, UNetVoice, cache_layout, conditions, embedded_times
from cosyvoice.native.upsample_encoder import UpsampleEncoder


def cache_values(config: CausalMaskedDiffConfig, plan: SolverPlan) -> int:
    """Numbers that are cached for each mel frame: keys and values of every layer, row and evaluation of the U-Net."""
    return plan.rows * cache_layout(config.unet).values


class NativeCausalMaskedDiffStage(ChunkedFlowStage):
    """Flow of a converted model of the second generation; arguments and errors are those of `ChunkedFlowStage`.

    Raises `ConfigError` also where encoder and U-Net have attention chunks of different lengths.
    """

    def __init__(
        self,
        directory: Path,
        config: CausalMaskedDiffConfig,
        runtime: Runtime,
        options: FlowOptions | None = None,
        max_context: int | None = None,
        *,
        cache_type: CacheType = "float32",
        prompt_cache_bytes: int = PROMPT_CACHE_BYTES,
        noise: FloatArray | None = None,
    ) -> None:
        self.config = config
        chunk = config.unet.static_chunk_size
        if config.encoder.static_chunk_size * config.token_mel_ratio != chunk:
            raise ConfigError(
                f"the encoder attends to chunks of {config.encoder.static_chunk_size} tokens, the U-Net to chunks of "
                f"{chunk} mel frames, {config.token_mel_ratio} of which are a token; use backend='reference'"
            )
        layout, directory = cache_layout(config.unet), Path(directory)
        super().__init__(
            directory, config, chunk, layout, runtime, options, max_context, cache_type, prompt_cache_bytes, noise
        )
        self._encoder = UpsampleEncoder(directory / ENCODER, config, runtime, len(self.plan.times))
        self._reader = VoiceReader(Weights(directory / WEIGHTS), config)
        self._times = embedded_times(directory / WEIGHTS, config.unet, self.plan.times)

    def _start_context(self) -> list[EvaluationCache]:
        return [*super()._start_context(), *self._encoder.start()]

    def _voice(self, inputs: FlowInput) -> UNetVoice:
        return UNetVoice.of(inputs, self._reader)

    def _checked(self, tokens: Sequence[int]) -> NDArray[np.int64]:
        return self._reader.tokens(tokens)

    def _conditions(
        self,
        voice: UNetVoice,
        tokens: NDArray[np.int64],
        first: int,
        end: int,
        context: FlowContext | None,
        keep: bool,
    ) -> dict[str, Any]:
        ratio = self.config.token_mel_ratio
        mu = self._encoder(tokens, first // ratio, end // ratio, context, keep)
        return {"conditions": conditions(mu, voice.speaker, voice.mel[first:end])}

    def _evaluation_inputs(self, conditions: dict[str, Any], evaluation: int) -> dict[str, Any]:
        rows = 2 if self.plan.guided[evaluation] else 1
        return {"conditions": conditions["conditions"][:rows], "time": self._times[evaluation]}
