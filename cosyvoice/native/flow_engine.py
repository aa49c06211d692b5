"""Which engine runs the estimator of the flow: ONNX Runtime, or OpenVINO where it is asked for."""

from __future__ import annotations

from typing import get_args

from cosyvoice.config.bundle import Bundle
from cosyvoice.config.model import AnyFlowConfig, FlowConfig
from cosyvoice.errors import ConfigError
from cosyvoice.native.openvino import OpenVINO, multiplies_bfloat16
from cosyvoice.native.runtime import Engine, Runtime
from cosyvoice.native.solver import Arithmetic, EngineName, FlowOptions


def flow_engine(options: FlowOptions, config: AnyFlowConfig, bundle: Bundle, runtime: Runtime) -> Engine:
    """The engine that `options` ask for.

    Raises `ConfigError` for settings that do not exist or do not fit together, and `MissingDependencyError` where
    OpenVINO is asked for and not installed.
    """
    for name, value, known in (
        ("engine", options.engine, get_args(EngineName)),
        ("arithmetic", options.arithmetic, (None, *get_args(Arithmetic))),
    ):
        if value not in known:
            raise ConfigError(f"{name} of the flow is {value!r}; use one of {', '.join(map(repr, known))}")
    if options.engine == "onnxruntime":
        if options.arithmetic == "bfloat16":
            raise ConfigError("ONNX Runtime has no bfloat16 on processors; use engine='openvino'")
        return runtime
    if not isinstance(config, FlowConfig):
        raise ConfigError("OpenVINO runs the flow of V3 models only; leave out engine='openvino'")
    quantised = bundle.stages.get("flow", "fp32") != "fp32"
    usual: Arithmetic = "bfloat16" if quantised and multiplies_bfloat16() else "float32"
    return OpenVINO(runtime.threads, options.arithmetic or usual)
