"""OpenVINO in the place of ONNX Runtime, for graphs in operations of the ONNX standard: the optional second engine.

It multiplies large matrices in bfloat16 where the processor does, which ONNX Runtime does not: a flow in single
precision then takes a fraction of the time at a small loss. In 8 bits both are about as fast. A session has the
methods of ONNX Runtime's that the stages use, so a stage does not know which engine runs its graph.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cosyvoice.errors import MissingDependencyError, ModelError
from cosyvoice.native.options import Arithmetic
from cosyvoice.native.runtime import InputOfGraph, first_line

_PRECISION: dict[str, str] = {"float32": "f32", "bfloat16": "bf16"}
GROUP = 128
"""Inputs of a linear layer that share a scale when they are quantised as they come. Has to divide the layer's width."""


def multiplies_bfloat16() -> bool:
    """Whether OpenVINO, which must be installed, finds that this processor multiplies bfloat16 natively."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVINO:
    """Makes sessions for one model.

    Args:
        threads: of one operation.
        arithmetic: of products of weights that are not quantised, and of all else between layers.

    Raises `MissingDependencyError` where OpenVINO is not installed.
    """

    plain = True

    def __init__(self, threads: int, arithmetic: Arithmetic) -> None:
        self.threads, self.arithmetic = threads, arithmetic
        self._core = _core()

    @property
    def version(self) -> str:
        """Of OpenVINO."""
        return version("openvino")

    def session(self, path: Path) -> OpenVINOSession:
        """A session of the graph `path`. Raises `ModelError` where it is missing, damaged, or too new."""
        if not path.is_file():
            raise ModelError(
                f"{path} is missing, the graph for OpenVINO; convert the model again with this version, "
                "or use engine='onnxruntime'"
            )
        options = {
            "INFERENCE_PRECISION_HINT": _PRECISION[self.arithmetic],
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            # Other stages use the same cores.
            "ENABLE_CPU_PINNING": False,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP,
        }
        try:
            return OpenVINOSession(self._core.compile_model(str(path), "CPU", options))
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot use {path} ({first_line(error)}); convert the model again") from None


class OpenVINOSession:
    """A compiled graph, safe from many threads: each run has memory of its own, which later runs use again."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._lock = threading.Lock()
        self._idle: list[Any] = []

    def get_inputs(self) -> list[InputOfGraph]:
        """Of the graph."""
        return [
            InputOfGraph(
                value.get_any_name(), [dim.get_length() if dim.is_static else None for dim in value.partial_shape]
            )
            for value in self._compiled.inputs
        ]

    def run(self, outputs: list[str] | None, inputs: dict[str, Any]) -> list[Any]:
        """The named outputs, or all of them; raises `RuntimeError` where that fails."""
        names = [output.get_any_name() for output in self._compiled.outputs] if outputs is None else outputs
        with self._request() as request:
            results = request.infer(
                {name: np.ascontiguousarray(value) for name, value in inputs.items()}, share_inputs=True
            )
            return [results[name] for name in names]

    @contextmanager
    def _request(self) -> Iterator[Any]:
        with self._lock:
            request = self._idle.pop() if self._idle else None
        if request is None:
            request = self._compiled.create_infer_request()
        yield request
        # One that failed is not used again.
        with self._lock:
            self._idle.append(request)


def _core() -> Any:
    try:
        from openvino import Core
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "the engine 'openvino' needs the package openvino: pip install \"cosyvoice[openvino]\", or use "
            "engine='onnxruntime'"
        ) from None
    return Core()
