"""The settings of speed that commands and the server offer, as options of the stages."""

from __future__ import annotations

from typing import TypedDict

from cosyvoice.native.options import EngineName, VocoderOptions
from cosyvoice.native.solver import FlowOptions


class StageOptions(TypedDict):
    """Arguments of `cosyvoice.load`."""

    flow: FlowOptions | None
    vocoder: VocoderOptions | None


def stage_options(
    steps: int | None = None, engine: EngineName | None = None, guided_until: float | None = None
) -> StageOptions:
    """`steps` of the flow, `engine` of flow and vocoder, `guided_until` the flow time up to which there is
    guidance; None leaves each as it is usually.

    With none there are no options, so that any backend takes them.
    """
    flow = None
    if any(setting is not None for setting in (steps, engine, guided_until)):
        guidance = (0.0, 1.0 if guided_until is None else guided_until)
        flow = FlowOptions(n_timesteps=steps, engine=engine or "onnxruntime", guidance=guidance)
    return {"flow": flow, "vocoder": None if engine is None else VocoderOptions(engine=engine)}
