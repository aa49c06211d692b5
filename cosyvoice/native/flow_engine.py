"""Which engine runs the estimator of the flow: ONNX Runtime, or OpenVINO where it is installed."""

from __future__ import annotations

from typing import get_args

from cosyvoice.config.bundle import Bundle
from cosyvoice.config.model import AnyFlowConfig, FlowConfig
from cosyvoice.errors import ConfigError
from cosyvoice.native.chunked_flow import PLAIN_GRAPHS
from cosyvoice.native.openvino import OpenVINO, is_installed, multiplies_bfloat16
from cosyvoice.native.runtime import Engine, Runtime
from cosyvoice.native.solver import Arithmetic, EngineName, FlowOptions

LARGE = 512
"""Width of an estimator from which OpenVINO was measured to be worth its start of seconds."""


def flow_engine(options: FlowOptions, config: AnyFlowConfig, bundle: Bundle, runtime: Runtime) -> Engine:
    """The engine that `options` ask for.

    "auto" is OpenVINO for a large quantised flow, on a processor that multiplies bfloat16 natively: there it is faster
    and no less exact. Whatever was converted in single precision stays in it, on ONNX Runtime.

    Raises `ConfigError` for settings that do not exist or do not fit together, and `MissingDependencyError` where
    OpenVINO is asked for and not installed.
    """
    for name, value, known in (
        ("engine", options.engine, get_args(EngineName)),
        ("arithmetic", options.arithmetic, (None, *get_args(Arithmetic))),
    ):
        if value not in known:
            raise ConfigError(f"{name} of the flow is {value!r}; use one of {', '.join(map(repr, known))}")
    quantised = bundle.stages.get("flow", "fp32") != "fp32"
    if options.engine == "onnxruntime" and options.arithmetic == "bfloat16":
        raise ConfigError("ONNX Runtime has no bfloat16 on processors; use engine='openvino'")
    asked = options.engine == "openvino" or options.arithmetic == "bfloat16"
    if asked and not isinstance(config, FlowConfig):
        raise ConfigError("OpenVINO runs the flow of V3 models only; leave out its engine and arithmetic")
    if not asked and (options.engine == "onnxruntime" or not _gains(config, bundle, quantised)):
        return runtime
    usual: Arithmetic = "bfloat16" if quantised and multiplies_bfloat16() else "float32"
    return OpenVINO(runtime.threads, options.arithmetic or usual)


def _gains(config: AnyFlowConfig, bundle: Bundle, quantised: bool) -> bool:
    """Whether "auto" takes OpenVINO."""
    large = isinstance(config, FlowConfig) and config.dit.dim >= LARGE
    has_graphs = set(PLAIN_GRAPHS.values()) <= set(bundle.files)
    return large and quantised and has_graphs and is_installed() and multiplies_bfloat16()
