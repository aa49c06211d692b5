"""The flow stage of the first generation on ONNX Runtime: see `OverlappedFlowStage`.

A chunk is computed on its own, encoder and estimator each in one run over all of its frames; the interpolation from
the rate of the tokens to that of the mel is planned here and done in the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import MaskedDiffConfig
from cosyvoice.engine.compat import Compat
from cosyvoice.engine.overlapped_flow import ChunkNoise, OverlappedFlowStage, PositionNoise
from cosyvoice.engine.stages import FloatArray, FlowInput
from cosyvoice.errors import GenerationError, VoiceError
from cosyvoice.native.blas import one_blas_thread
from cosyvoice.native.chunked_flow import WEIGHTS
from cosyvoice.native.flow_voice import VoiceReader, Weights
from cosyvoice.native.noise import released_start_noise
from cosyvoice.native.positions import Sinusoids
from cosyvoice.native.runtime import Runtime, run
from cosyvoice.native.solver import FlowOptions, SolverPlan, solve
from cosyvoice.native.unet import ENCODER, ESTIMATOR, UNetVoice, conditions, embedded_times


class NativeMaskedDiffFlow:
    """Calls of the networks; see `ChunkFlow`. Safe from many threads."""

    def __init__(self, directory: Path, config: MaskedDiffConfig, runtime: Runtime, plan: SolverPlan) -> None:
        """Errors are those of `NativeMaskedDiffStage`."""
        self._config, self._plan = config, plan
        self._encoder = runtime.session(directory / ENCODER)
        self._estimator = runtime.session(directory / ESTIMATOR)
        self._sinusoids = Sinusoids(config.encoder.output_size)
        self._reader = VoiceReader(Weights(directory / WEIGHTS), config)
        self._times = embedded_times(directory / WEIGHTS, config.unet, plan.times)

    @one_blas_thread
    def voice(self, inputs: FlowInput) -> UNetVoice:
        """See `ChunkFlow`. Raises `VoiceError` for tokens without mel or the reverse, `ModelError` for a token outside
        the vocabulary."""
        if bool(len(inputs.prompt_token)) != bool(len(inputs.prompt_mel)):
            raise VoiceError(
                f"the reference has {len(inputs.prompt_token)} speech tokens and {len(inputs.prompt_mel)} mel frames; "
                "give both, or neither"
            )
        return UNetVoice.of(inputs, self._reader)

    @one_blas_thread
    def sample(
        self, voice: UNetVoice, tokens: Sequence[int], noise: FloatArray, cache: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """See `ChunkFlow`. Raises `GenerationError` for values that are not finite."""
        config, prompt = self._config, len(voice.mel)
        ids = self._reader.tokens(tokens)
        mu, start = self._encode(voice, ids, len(noise) - prompt), noise.astype(np.float32)
        if cache is not None:
            if len(cache) > len(start):
                raise GenerationError(
                    f"a chunk of {len(start) - prompt} mel frames cannot continue {len(cache) - prompt} cached ones; "
                    f"begin each chunk with the last {config.overlap_tokens} tokens of the one before"
                )
            start[: len(cache)], mu[: len(cache)] = cache[..., 0], cache[..., 1]
        rows = conditions(mu, voice.speaker, voice.mel)

        def velocity(x: FloatArray, evaluation: int) -> FloatArray:
            count = 2 if self._plan.guided[evaluation] else 1
            inputs = {"x": x, "conditions": rows[:count], "time": self._times[evaluation]}
            return self._plan.guide(run(self._estimator, ["velocity"], inputs)[0])

        mel = solve(velocity, start[None], self._plan)[0][prompt:]
        if not np.isfinite(mel).all():
            raise GenerationError(
                "the flow gave values that are not finite; convert the model to the next higher precision"
            )
        both = np.stack([start, mu], axis=2)
        kept = np.concatenate([both[:prompt], both[-config.cached_frames :]])
        restored = mel * np.float32(config.mel_std) + np.float32(config.mel_mean)
        return np.ascontiguousarray(restored, np.float32), kept

    def _encode(self, voice: UNetVoice, tokens: NDArray[np.int64], frames: int) -> FloatArray:
        """mu of the prompt's frames and of `frames` new ones [frames, mel_dim]."""
        if frames < 1:
            raise GenerationError("there is no speech token to give a mel frame; wait for tokens")
        config, prompt = self._config, len(voice.tokens)
        edge = config.overlap_tokens, config.overlap_frames
        # Rows and frames of the parts that are stretched apart from each other.
        if len(tokens) > 2 * edge[0]:
            parts = [edge, (len(tokens) - 2 * edge[0], frames - 2 * edge[1]), edge]
        else:
            parts = [(len(tokens), frames)]
        if prompt:
            parts.insert(0, (prompt, len(voice.mel)))
        low, high, share = _stretched(parts)
        count = prompt + len(tokens)
        cos, sin, table = self._sinusoids(0, count)
        inputs = {
            "token": np.concatenate([voice.tokens, tokens])[None],
            "tokens_cos": cos,
            "tokens_sin": sin,
            "tokens_table": table,
            "low": low,
            "high": high,
            "share": share[:, None],
        }
        mu: FloatArray = run(self._encoder, ["mu"], inputs)[0][0]
        return mu.copy()


class NativeMaskedDiffStage(OverlappedFlowStage):
    """Flow of a converted model of the first generation; see `OverlappedFlowStage`.

    Args:
        directory: of the converted model.
        config: its flow.
        runtime: makes the sessions.
        options: how the flow is sampled.
        noise: start noise of the chunks; None: the fixed noise of the released causal models, by position.
        compat: see `OverlappedFlowStage`.

    Raises `ConfigError` for values out of range, `ModelError` for a directory that is damaged or incomplete.
    """

    def __init__(
        self,
        directory: Path,
        config: MaskedDiffConfig,
        runtime: Runtime,
        options: FlowOptions | None = None,
        *,
        noise: ChunkNoise | None = None,
        compat: Compat = "corrected",
    ) -> None:
        self.plan = SolverPlan.of(config.cfm, options or FlowOptions())
        flow = NativeMaskedDiffFlow(Path(directory), config, runtime, self.plan)
        if noise is None:
            noise = PositionNoise(released_start_noise(config.mel_dim).T)
        super().__init__(flow, config, noise, compat)


def _stretched(parts: Sequence[tuple[int, int]]) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]:
    """Between which rows each frame lies, and how near to the higher one, where each of `parts` (rows, frames) is
    interpolated linearly on its own: low, high and share [frames]."""
    low, high, share, begin = [], [], [], 0
    for rows, frames in parts:
        scale = np.float32(rows) / np.float32(frames)
        place = (np.arange(frames, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
        place = np.maximum(place, np.float32(0))
        lower = np.minimum(place.astype(np.int64), rows - 1)
        low.append(begin + lower)
        high.append(begin + np.minimum(lower + 1, rows - 1))
        share.append(np.minimum(place - lower, 1).astype(np.float32))
        begin += rows
    return np.concatenate(low), np.concatenate(high), np.concatenate(share)
