"""Which engine runs the estimator of the flow and the vocoder: ONNX Runtime, or OpenVINO where it is asked for."""

from __future__ import annotations

from typing import get_args

from cosyvoice.config.bundle import Bundle
from cosyvoice.config.model import AnyFlowConfig, FlowConfig, HiFTConfig
from cosyvoice.errors import ConfigError
from cosyvoice.native.openvino import OpenVINO, multiplies_bfloat16
from cosyvoice.native.options import Arithmetic, EngineName, VocoderOptions
from cosyvoice.native.solver import FlowOptions


def flow_engine(options: FlowOptions, config: AnyFlowConfig, bundle: Bundle, threads: int) -> OpenVINO | None:
    """The engine that `options` ask for besides ONNX Runtime; None: they ask for that.

    Raises `ConfigError` for settings that do not exist or do not fit together, and `MissingDependencyError` where
    OpenVINO is asked for and not installed.
    """
    quantised = bundle.stages.get("flow", "fp32") != "fp32"
    return _engine("flow", options, isinstance(config, FlowConfig), quantised, threads)


def vocoder_engine(options: VocoderOptions, config: HiFTConfig, bundle: Bundle, threads: int) -> OpenVINO | None:
    """See `flow_engine`."""
    # Its weights are never quantised; whoever took a quantised bundle has chosen speed.
    return _engine("vocoder", options, config.causal, bundle.precision != "fp32", threads)


def _engine(
    stage: str, options: FlowOptions | VocoderOptions, runs_on_openvino: bool, quantised: bool, threads: int
) -> OpenVINO | None:
    for name, value, known in (
        ("engine", options.engine, get_args(EngineName)),
        ("arithmetic", options.arithmetic, (None, *get_args(Arithmetic))),
    ):
        if value not in known:
            raise ConfigError(f"{name} of the {stage} is {value!r}; use one of {', '.join(map(repr, known))}")
    if options.engine == "onnxruntime":
        if options.arithmetic == "bfloat16":
            raise ConfigError("ONNX Runtime has no bfloat16 on processors; use engine='openvino'")
        return None
    if not runs_on_openvino:
        raise ConfigError(f"OpenVINO runs the {stage} of V3 models only; leave out engine='openvino'")
    usual: Arithmetic = "bfloat16" if quantised and multiplies_bfloat16() else "float32"
    return OpenVINO(threads, options.arithmetic or usual)
