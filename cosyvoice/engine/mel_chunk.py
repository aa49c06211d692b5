"""What every vocoder stage asks of the mel that it is given, chunk by chunk."""

from __future__ import annotations

import numpy as np

from cosyvoice.config.model import HiFTConfig
from cosyvoice.engine.stages import FloatArray, MelChunk
from cosyvoice.errors import GenerationError


def new_mel(chunk: MelChunk, config: HiFTConfig, finished: bool) -> FloatArray:
    """The mel [frames, in_channels] of `chunk`, for an utterance that is `finished` or not.

    Raises `GenerationError` for a mel of another shape, and for an utterance that has ended.
    """
    mel = np.asarray(chunk.mel, np.float32)
    channels = config.in_channels
    if finished:
        raise GenerationError("this utterance has ended; begin a new state for the next one")
    if mel.ndim != 2 or mel.shape[1] != channels:
        raise GenerationError(
            f"the vocoder got a mel of shape {mel.shape} and needs [frames, {channels}]; "
            "transpose it or match the mel settings"
        )
    return mel


def check_any_frame(frames: int) -> None:
    """Raise `GenerationError` for an utterance that ends after no frame at all."""
    if frames == 0:
        raise GenerationError("the vocoder got 0 mel frames and needs 1; give it some before the utterance ends")
