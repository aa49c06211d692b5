"""Recorded calls of the flow's inference: conditions, time grid, calls of the estimator, mel.

Causal flows start from a fixed noise. That of the first generation draws fresh noise for every call, from a seed that
is recorded, and its streams hand a cache from one call to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cosyvoice.flow.conditional import CausalConditionalFlow, ConditionalFlow
from cosyvoice.flow.flow_matching import Conditions
from cosyvoice.flow.masked_diff import MaskedDiffWithXvec
from cosyvoice.flow.solver import time_grid
from cosyvoice.parity.report import Report

CASE_INPUTS = ("token", "prompt_token", "prompt_feat", "embedding")
ESTIMATOR_INPUTS = ("x", "mask", "mu", "t", "spks", "cond")
STREAM, CHUNK = "stream", "stream.chunk"
"""What belongs to a recorded stream as a whole, and to each of its chunks."""


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """Inputs and output of each call of the estimator while the context is open."""
    calls: list[dict[str, Any]] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        calls.append({**dict(zip(ESTIMATOR_INPUTS, args, strict=False)), **kwargs, "out": out})

    handle = module.register_forward_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@contextmanager
def first_output_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Output of the first call while the context is open; of several outputs the first."""
    outputs: list[Tensor] = []

    def record(_: nn.Module, __: tuple[Any, ...], out: Any) -> None:
        if not outputs:
            outputs.append(out[0] if isinstance(out, tuple) else out)

    handle = module.register_forward_hook(record)
    try:
        yield outputs
    finally:
        handle.remove()


def check_cases(report: Report, flow: ConditionalFlow) -> None:
    """Every recorded case of the topic `vN_flow`."""
    cases = case_names(report)
    for case in cases:
        if not case.startswith(CHUNK):
            inputs = [torch.from_numpy(report.input(f"{case}.{name}")) for name in CASE_INPUTS]
            _check_case(report, flow, case, inputs, report.options.get(case, {}))
    chunks = [case for case in cases if case.startswith(CHUNK)]
    if chunks and isinstance(flow, MaskedDiffWithXvec):
        _check_stream(report, flow, chunks)
    if "rand_noise_head" in report.topic:
        frames = report.topic["rand_noise_head"].shape[2]
        report.compare("rand_noise_head", flow.start_noise[:, :, :frames], 0.0, "bit equal")
    report.settings(rand_noise_shape=list(flow.start_noise.shape))


def check_single(report: Report, flow: ConditionalFlow) -> None:
    """The only case of the topic `vN_flow_debug`, without a prompt."""
    token, embedding = (torch.from_numpy(report.input(name)) for name in ("token", "embedding"))
    inputs = [token, token[:, :0], torch.zeros(len(token), 0, flow.config.mel_dim), embedding]
    _check_case(report, flow, "run", inputs, {"streaming": report.options.get("run_streaming", False)})


def case_names(report: Report) -> list[str]:
    """Everything that a mel was recorded of."""
    return sorted(name.removesuffix(".mel") for name in report.topic.tensors if name.endswith(".mel"))


def recorded_seed(report: Report, case: str) -> int:
    """The seed of the start noise of a case."""
    name = f"{case}_manual_seed"
    return int(report.options[name if name in report.options else "manual_seed"])


def _check_stream(report: Report, flow: MaskedDiffWithXvec, chunks: list[str]) -> None:
    """Chunks one after the other, each with the cache that we computed for it."""
    report.inputs.add(f"{STREAM}.token")
    voice = [torch.from_numpy(report.input(f"{STREAM}.{name}")) for name in CASE_INPUTS[1:]]
    cache: Tensor | None = None
    for case in chunks:
        token = torch.from_numpy(report.input(f"{case}.token"))
        report.compare(f"{case}.cache_in", torch.zeros(1, flow.config.mel_dim, 0, 2) if cache is None else cache)
        cache = _check_chunk(report, flow, case, [token, *voice], cache)
        report.compare(f"{case}.cache_out", cache)


def _check_case(
    report: Report, flow: ConditionalFlow, case: str, inputs: list[Tensor], options: dict[str, Any]
) -> None:
    if isinstance(flow, MaskedDiffWithXvec):
        _check_chunk(report, flow, case, inputs, None)
    elif isinstance(flow, CausalConditionalFlow):
        streaming, finalize = bool(options["streaming"]), bool(options.get("finalize", True))
        with torch.inference_mode():
            conditions = flow.inference_conditions(*inputs, streaming=streaming, finalize=finalize)

        def infer() -> Tensor:
            return flow.inference(*inputs, streaming=streaming, finalize=finalize)

        _check_call(report, flow, case, conditions, infer)


def _check_chunk(
    report: Report, flow: MaskedDiffWithXvec, case: str, inputs: list[Tensor], cache: Tensor | None
) -> Tensor:
    """One call of the first generation; its cache for the next one."""
    with torch.inference_mode():
        conditions = flow.inference_conditions(*inputs)
    generator = torch.Generator().manual_seed(recorded_seed(report, case))
    noise = torch.randn(conditions.mu.shape, generator=generator)
    kept: list[Tensor] = []

    def infer() -> Tensor:
        mel, cache_out = flow.inference(*inputs, cache=cache, noise=noise)
        kept.append(cache_out)
        return mel

    calls = _check_call(report, flow, case, conditions, infer)
    report.compare(f"{case}.noise", calls[0]["x"][:1])
    # With a cache, what was recorded is what the estimator saw.
    report.compare(f"{case}.mu", calls[0]["mu"][:1])
    return kept[0]


def _check_call(
    report: Report, flow: ConditionalFlow, case: str, conditions: Conditions, infer: Callable[[], Tensor]
) -> list[dict[str, Any]]:
    """Rows of one call under `CASE.`; returns the calls of its estimator."""
    config = flow.config.cfm
    with calls_of(flow.decoder.estimator) as calls:
        mel = infer()
    for name in ("mu", "spks", "cond", "mask"):
        report.compare(f"{case}.{name}", getattr(conditions, name))
    report.compare(f"{case}.t_span", time_grid(config.n_timesteps, config.t_scheduler))
    times = [float(call["t"][0]) for call in calls]
    report.settings(**{f"{case}_t_fed": times, f"{case}_streaming": calls[0]["streaming"]})
    for when, call in (("first", calls[0]), ("last", calls[-1])):
        for name in (*ESTIMATOR_INPUTS, "out"):
            report.compare(f"{case}.est_{when}.{name}", call[name])
    report.compare(f"{case}.mel", mel)
    return calls
