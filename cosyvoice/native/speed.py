"""The two settings of speed that commands and the server offer, as options of the stages."""

from __future__ import annotations

from typing import TypedDict

from cosyvoice.native.options import EngineName, VocoderOptions
from cosyvoice.native.solver import FlowOptions


class StageOptions(TypedDict):
    """Arguments of `cosyvoice.load`."""

    flow: FlowOptions | None
    vocoder: VocoderOptions | None


def stage_options(steps: int | None, engine: EngineName | None) -> StageOptions:
    """`steps` of the flow, and the `engine` of flow and vocoder; None leaves either as it is usually.

    With neither there are no options, so that any backend takes them.
    """
    flow = None if steps is None and engine is None else FlowOptions(n_timesteps=steps, engine=engine or "onnxruntime")
    return {"flow": flow, "vocoder": None if engine is None else VocoderOptions(engine=engine)}
