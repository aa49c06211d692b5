"""Parity of the native flow: the mel of every recorded case, whole and through one state in steps, and fixed values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from cosyvoice.engine.stages import FloatArray, FlowInput, TokenChunk
from cosyvoice.native.flow import NativeFlowStage
from cosyvoice.native.noise import released_start_noise
from cosyvoice.native.solver import time_grid
from cosyvoice.parity.converted import Converted, check_topics
from cosyvoice.parity.flow import CASE_INPUTS, ESTIMATOR_INPUTS
from cosyvoice.parity.golden import Row
from cosyvoice.parity.report import Report

NOISE_TOLERANCE = 1e-6
"""Tolerance of normal random numbers: PyTorch and NumPy round logarithms and cosines differently."""


def check(converted: Converted) -> Iterator[Row]:
    """Rows of the topics `vN_flow` and `vN_flow_debug`, as far as the folder has them."""
    yield from check_topics(converted, {"{}_flow": _inference, "{}_flow_debug": _debug})


def _inference(report: Report, converted: Converted) -> None:
    stage = cast(NativeFlowStage, converted.model.stages.flow)
    for case in sorted(name.removesuffix(".mel") for name in report.topic.tensors if name.endswith(".mel")):
        token, prompt_token, prompt_mel, embedding = (report.input(f"{case}.{name}")[0] for name in CASE_INPUTS)
        inputs, options = FlowInput(prompt_token, prompt_mel, embedding), report.options[case]
        _run_case(report, stage, case, inputs, token.tolist(), options)
        if options["streaming"]:
            _run_in_steps(report, stage, case, inputs, token.tolist(), options)
    if "rand_noise_head" in report.topic:
        noise = released_start_noise(stage.config.mel_dim)
        frames = report.topic["rand_noise_head"].shape[2]
        report.compare("rand_noise_head", noise[None, :, :frames], NOISE_TOLERANCE)
        report.settings(rand_noise_shape=[1, *noise.shape])


def _debug(report: Report, converted: Converted) -> None:
    stage = cast(NativeFlowStage, converted.model.stages.flow)
    token, embedding = report.input("token")[0], report.input("embedding")[0]
    inputs = FlowInput(token[:0], np.zeros((0, stage.config.mel_dim), np.float32), embedding)
    options = {"streaming": report.options.get("run_streaming", False), "finalize": True}
    _run_case(report, stage, "run", inputs, token.tolist(), options)
    report.inputs.update(f"ragged.{name}" for name in ESTIMATOR_INPUTS)


def _run_case(
    report: Report,
    stage: NativeFlowStage,
    case: str,
    inputs: FlowInput,
    tokens: list[int],
    options: dict[str, Any],
) -> None:
    """The whole case in one step, and the times at which it evaluates the velocity."""
    streaming, finalize = bool(options["streaming"]), bool(options["finalize"])
    mel, _ = stage.step(TokenChunk(tokens, finalize, chunk_masks=streaming), stage.init_state(inputs))
    report.compare(f"{case}.mel", mel.T[None])
    config = stage.config.cfm
    report.compare(f"{case}.t_span", time_grid(config.n_timesteps, config.t_scheduler))
    times = [float(time) for time in stage.plan.times]
    report.settings(**{f"{case}_t_fed": times, f"{case}_streaming": streaming})


def _run_in_steps(
    report: Report,
    stage: NativeFlowStage,
    case: str,
    inputs: FlowInput,
    tokens: list[int],
    options: dict[str, Any],
) -> None:
    """The same case, one attention chunk after the other through one state."""
    config = stage.config
    chunk, lookahead = config.dit.static_chunk_size // config.token_mel_ratio, config.pre_lookahead_len
    first = -len(inputs.prompt_token) % chunk or chunk
    ends = range(first + lookahead, len(tokens) + 1, chunk)
    state = stage.init_state(inputs)
    parts: list[FloatArray] = []
    done = 0
    for end in ends:
        part, state = stage.step(TokenChunk(tokens[done:end], finalize=False, chunk_masks=True), state)
        parts.append(part)
        done = end
    if options["finalize"] or done < len(tokens):
        part, state = stage.step(TokenChunk(tokens[done:], bool(options["finalize"]), chunk_masks=True), state)
        parts.append(part)
    name = f"{case}.mel in {len(parts)} steps"
    report.compare(name, np.concatenate(parts).T[None], recorded=report.topic[f"{case}.mel"])
