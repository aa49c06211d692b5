"""The U-Net of the first two generations on ONNX Runtime: what its graph is given, apart from the conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import UNetConfig
from cosyvoice.engine.stages import FloatArray, FlowInput
from cosyvoice.errors import ConfigError
from cosyvoice.native.chunked_flow import CacheLayout
from cosyvoice.native.flow_voice import VoiceReader, Weights, mish, silu, time_code

ENCODER, ESTIMATOR = "flow_encoder.onnx", "flow.onnx"
CONVOLUTION_CONTEXT = 2
"""Frames to the left that a causal convolution sees."""
GROUPS = 8
"""Groups of channels that the norms of a U-Net that is not causal take together."""
_TIME_MLP = "decoder.estimator.time_mlp"


@dataclass(frozen=True)
class UNetVoice:
    """The reference of an utterance. Shared between threads, never changed."""

    tokens: NDArray[np.int64]
    mel: FloatArray
    """Normalised [frames, mel_dim]."""
    speaker: FloatArray
    """Projected [mel_dim]."""

    @classmethod
    def of(cls, inputs: FlowInput, reader: VoiceReader) -> UNetVoice:
        """`inputs` as read by `reader`; raises `ModelError` for a token outside the vocabulary."""
        tokens, mel = reader.tokens(inputs.prompt_token), reader.mel(inputs.prompt_mel)
        return cls(tokens, mel, reader.speaker(inputs.speaker_embedding))


def time_channels(config: UNetConfig) -> int:
    """Width of the embedded flow time."""
    return 4 * config.channels[0]


def cache_layout(config: UNetConfig) -> CacheLayout:
    """What a causal U-Net carries from one chunk to the next, in the order of its layers.

    Raises `ConfigError` for one with several levels: a change of the frame rate cannot be run in chunks.
    """
    if len(config.channels) != 1:
        raise ConfigError(
            f"a causal U-Net of {len(config.channels)} levels changes the frame rate, which cannot be run in chunks; "
            "use backend='reference'"
        )
    width = config.channels[0]
    # Of each level the two convolutions of the residual block, of the outer ones also the last.
    inputs = [config.in_channels, *[width] * 2, *[width] * (2 * config.num_mid_blocks), 2 * width, *[width] * 2, width]
    layers = config.n_blocks * (config.num_mid_blocks + 2)
    states = tuple((channels, CONVOLUTION_CONTEXT) for channels in inputs)
    return CacheLayout(states, layers, config.num_heads, config.attention_head_dim)


def embedded_times(path: Path, config: UNetConfig, times: Sequence[np.float32]) -> list[FloatArray]:
    """The graph's input `time` [1, channels] at each of the flow `times`; `path` is the safetensors file."""
    read = Weights(path)
    code = time_code(np.array(times, np.float32), config.in_channels)
    time = read.linear(f"{_TIME_MLP}.linear_2", silu(read.linear(f"{_TIME_MLP}.linear_1", code)))
    return list(mish(time)[:, None].astype(np.float32))


def conditions(mu: FloatArray, speaker: FloatArray, shown: FloatArray) -> FloatArray:
    """The graph's input `conditions` [2, frames, 3 mel_dim]: with all conditions, and with none.

    `mu` [frames, mel_dim], `speaker` [mel_dim], `shown` [frames or fewer, mel_dim] the prompt's mel at these frames.
    """
    frames, channels = mu.shape
    rows = np.zeros((2, frames, 3 * channels), np.float32)
    rows[0, :, :channels] = mu
    rows[0, :, channels : 2 * channels] = speaker
    rows[0, : len(shown), 2 * channels :] = shown
    return rows
