"""ONNX Runtime for the stages: sessions with pools of threads of a chosen size, and its errors as ours.

Threads do not spin while they wait, or hardly: several sessions live in one process and take turns, and a spinning
pool would take the cores from the others. Work that falls into independent parts runs them side by side instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import onnxruntime

from cosyvoice.errors import ConfigError, GenerationError, ModelError

MEMORY_WORDS = ("alloc", "bad_alloc", "memory")
"""What the messages of failed allocations have in common."""

BOUNDED_SPIN = 1, 27
"""Versions of ONNX Runtime from this one on take the time that a thread spins; older ones would spin for long."""

T = TypeVar("T")


def available_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class InputOfGraph(NamedTuple):
    """An input of a graph, as ONNX Runtime describes it too."""

    name: str
    shape: Sequence[Any]
    """Numbers, and anything else where any length will do."""


class Session(Protocol):
    """A graph that is ready to run."""

    def get_inputs(self) -> Sequence[Any]:
        """What describes the inputs, with `name` and `shape`."""
        ...

    def run(self, outputs: list[str] | None, inputs: dict[str, Any]) -> list[Any]:
        """The named outputs, or all of them."""
        ...


class Engine(Protocol):
    """What makes sessions."""

    @property
    def plain(self) -> bool:
        """Whether it takes the graphs in operations of the ONNX standard."""
        ...

    def session(self, path: Path) -> Session:
        """A session of the graph `path`. Raises `ModelError` where it is missing, damaged, or too new."""
        ...


class Runtime:
    """Makes sessions for one model.

    Args:
        threads: of one operation; None: as many as the process has cores.
    """

    plain: ClassVar[bool] = False

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ConfigError(f"{threads} threads cannot work; use at least 1, or leave it out for all cores")
        self.threads = threads or available_threads()
        # Threads are made when the first work comes for them; the caller of `side_by_side` is one more.
        self._helpers = ThreadPoolExecutor(max(self.threads - 1, 1), thread_name_prefix="cosyvoice-native")

    @property
    def description(self) -> dict[str, str]:
        """What runs the stages, for reports."""
        version = onnxruntime.__version__
        return {"backend": "native", "device": "cpu", "threads": str(self.threads), "onnxruntime": version}

    def side_by_side(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Results of `tasks`, in order: some run in this thread, others beside it where a helper is free.

        Raises what a task raises, after all that had begun have ended.
        """
        others = [(task, self._helpers.submit(task)) for task in tasks[1:]]
        try:
            results = [task() for task in tasks[:1]]
            # What no helper has begun, since others keep them busy, is done here rather than waited for.
            results += [task() if other.cancel() else other.result() for task, other in others]
        finally:
            wait([other for _, other in others if not other.cancel()])
        return results

    def session(self, path: Path, threads: int | None = None, spin: int = 0) -> onnxruntime.InferenceSession:
        """A session of the graph `path`, each operation on `threads` (None: all of this runtime).

        `spin` is how long its threads look out for the next operation before they sleep, in microseconds; a version of
        ONNX Runtime that cannot bound it lets them sleep at once.
        Raises `ModelError` where it is missing, damaged, or too new.
        """
        if not path.is_file():
            raise ModelError(f"{path} is missing; convert the model again, or copy its complete directory")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or self.threads
        options.log_severity_level = 3
        spins = spin > 0 and _version() >= BOUNDED_SPIN
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
        if spins:
            options.add_session_config_entry("session.intra_op.spin_duration_us", str(spin))
        options.enable_cpu_mem_arena = False
        # A plan is kept for every combination of shapes that has been seen, of which speech brings new ones for ever.
        options.enable_mem_pattern = False
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common public base
            raise ModelError(_load_problem(path, error)) from None


def run(session: Session, outputs: list[str] | None, inputs: dict[str, Any]) -> list[Any]:
    """`session.run`, with its failures as `GenerationError`."""
    try:
        results: list[Any] = session.run(outputs, inputs)
    except Exception as error:
        raise run_error(error) from None
    return results


def run_error(error: Exception) -> GenerationError:
    """What a failed run means for who asked for speech."""
    text = first_line(error)
    if any(word in text.lower() for word in MEMORY_WORDS):
        return GenerationError(f"out of memory ({text}); speak shorter pieces or fewer at once, or convert to int8")
    return GenerationError(f"the native engine failed ({text}); convert the model again with this version")


def _version() -> tuple[int, ...]:
    """Major and minor version of ONNX Runtime."""
    return tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])


def first_line(error: Exception) -> str:
    """The first line of a message, cut to a readable length."""
    return str(error).strip().split("\n")[0][:200]


def _load_problem(path: Path, error: Exception) -> str:
    reason = first_line(error)
    if "opset" in str(error).lower() or "is not a registered function" in str(error):
        return (
            f"{path} needs a newer ONNX Runtime than {onnxruntime.__version__} ({reason}); "
            "install a newer one with: pip install -U onnxruntime"
        )
    return f"{path} is no intact graph of this version ({reason}); convert the model again"
