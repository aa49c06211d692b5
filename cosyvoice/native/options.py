"""Names of the engines that run stages, and what can be chosen about the vocoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EngineName = Literal["onnxruntime", "openvino"]
Arithmetic = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class VocoderOptions:
    """What runs the vocoder."""

    engine: EngineName = "onnxruntime"
    """ "openvino" for V3 models, where it is installed."""
    arithmetic: Arithmetic | None = None
    """Of OpenVINO; None: single precision, and bfloat16 in a quantised bundle where the processor multiplies that."""
