"""Parity of the native flow: the mel of every recorded case, whole and through one state in steps, and fixed values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from cosyvoice.config.model import CFMConfig, MaskedDiffConfig
from cosyvoice.engine.cross_fade import cross_fade
from cosyvoice.engine.stages import FloatArray, FlowInput, TokenChunk
from cosyvoice.native.causal_masked_diff import NativeCausalMaskedDiffStage
from cosyvoice.native.flow import NativeFlowStage
from cosyvoice.native.masked_diff import NativeMaskedDiffFlow, NativeMaskedDiffStage
from cosyvoice.native.noise import released_start_noise
from cosyvoice.native.runtime import Runtime
from cosyvoice.native.solver import FlowOptions, SolverPlan, time_grid
from cosyvoice.parity.converted import Converted, check_topics
from cosyvoice.parity.flow_cases import CASE_INPUTS, CHUNK, ESTIMATOR_INPUTS, STREAM, case_names
from cosyvoice.parity.golden import Row
from cosyvoice.parity.report import Report

NOISE_TOLERANCE = 1e-6
"""Tolerance of normal random numbers: PyTorch and NumPy round logarithms and cosines differently."""
CausalStage = NativeFlowStage | NativeCausalMaskedDiffStage


def check(converted: Converted) -> Iterator[Row]:
    """Rows of the topics `vN_flow` and `vN_flow_debug`, as far as the folder has them."""
    yield from check_topics(converted, {"{}_flow": _inference, "{}_flow_debug": _debug})


def _inference(report: Report, converted: Converted) -> None:
    config = converted.model.config.flow
    if isinstance(config, MaskedDiffConfig):
        check_overlapped(report, converted.bundle, config)
    else:
        check_causal(report, cast(CausalStage, converted.model.stages.flow))


def _debug(report: Report, converted: Converted) -> None:
    config = converted.model.config.flow
    if isinstance(config, MaskedDiffConfig):
        check_overlapped(report, converted.bundle, config)
    else:
        check_causal_debug(report, cast(CausalStage, converted.model.stages.flow))
    report.inputs.update(f"ragged.{name}" for name in ESTIMATOR_INPUTS)


def check_causal(report: Report, stage: CausalStage) -> None:
    """Every recorded case of a causal flow."""
    for case in case_names(report):
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


def check_causal_debug(report: Report, stage: CausalStage) -> None:
    """The single case of the topic `vN_flow_debug`."""
    token, embedding = report.input("token")[0], report.input("embedding")[0]
    inputs = FlowInput(token[:0], np.zeros((0, stage.config.mel_dim), np.float32), embedding)
    options = {"streaming": report.options.get("run_streaming", False), "finalize": True}
    _run_case(report, stage, "run", inputs, token.tolist(), options)


def _run_case(
    report: Report,
    stage: CausalStage,
    case: str,
    inputs: FlowInput,
    tokens: list[int],
    options: dict[str, Any],
) -> None:
    """The whole case in one step, and the times at which it evaluates the velocity."""
    streaming, finalize = bool(options["streaming"]), bool(options["finalize"])
    mel, _ = stage.step(TokenChunk(tokens, finalize, chunk_masks=streaming), stage.init_state(inputs))
    report.compare(f"{case}.mel", mel.T[None])
    _compare_times(report, stage.config.cfm, stage.plan, case, streaming)


def _run_in_steps(
    report: Report,
    stage: CausalStage,
    case: str,
    inputs: FlowInput,
    tokens: list[int],
    options: dict[str, Any],
) -> None:
    """The same case, one attention chunk after the other through one state."""
    chunk, lookahead = stage.config.attention_chunk, stage.config.lookahead
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


def check_overlapped(report: Report, directory: Path, config: MaskedDiffConfig) -> None:
    """Every recorded case of a flow of overlapping chunks, from the bundle in `directory`.

    Each call is fed the noise that was recorded of it.
    """
    runtime, plan = Runtime(1), SolverPlan.of(config.cfm, FlowOptions())
    flow = NativeMaskedDiffFlow(directory, config, runtime, plan)
    nothing = np.zeros((0, config.mel_dim, 2), np.float32)
    cache: FloatArray | None = None
    for case in case_names(report):
        chunk = case.startswith(CHUNK)
        before = cache if chunk else None
        token = report.input(f"{case}.token" if f"{case}.token" in report.topic else "token")[0]
        voice = flow.voice(_reference(report, STREAM if chunk else case, config.mel_dim))
        mel, after = flow.sample(voice, token.tolist(), report.input(f"{case}.noise")[0].T, before)
        report.compare(f"{case}.cache_in", _recorded_layout(nothing if before is None else before))
        report.compare(f"{case}.cache_out", _recorded_layout(after))
        report.compare(f"{case}.mel", mel.T[None])
        cache = after if chunk else None
        _compare_times(report, config.cfm, plan, case, False)
    if f"{STREAM}.token" in report.topic:
        _run_overlapped(report, directory, config, runtime)


def _recorded_layout(cache: FloatArray) -> FloatArray:
    """[frames, mel_dim, 2] -> [1, mel_dim, frames, 2]"""
    return cache.transpose(1, 0, 2)[None]


def _reference(report: Report, case: str, mel_dim: int) -> FlowInput:
    """The recorded reference of a case, which may be an embedding alone."""
    if f"{case}.embedding" not in report.topic:
        nothing = np.zeros((0, mel_dim), np.float32)
        return FlowInput(np.zeros(0, np.int32), nothing, report.input("embedding")[0])
    return FlowInput(*(report.input(f"{case}.{name}")[0] for name in CASE_INPUTS[1:]))


def _run_overlapped(report: Report, directory: Path, config: MaskedDiffConfig, runtime: Runtime) -> None:
    """The stream through one state of the stage, against the recorded chunks cross-faded as in the released models."""
    chunks = [case for case in case_names(report) if case.startswith(CHUNK)]
    tokens: list[int] = report.input(f"{STREAM}.token")[0].tolist()

    def noise(step: int, prompt_frames: int, first: int, frames: int) -> FloatArray:
        recorded: FloatArray = report.topic[f"{chunks[step]}.noise"][0].T
        return recorded

    stage = NativeMaskedDiffStage(directory, config, runtime, noise=noise, compat="released")
    state = stage.init_state(_reference(report, STREAM, config.mel_dim))
    overlap, done = config.overlap_frames, 0
    rise, fall = cross_fade(overlap, "released")
    parts, expected = [], np.zeros((0, config.mel_dim), np.float32)
    for case in chunks:
        count = report.topic[f"{case}.token"].shape[1] - (config.overlap_tokens if done else 0)
        part, state = stage.step(TokenChunk(tokens[done : done + count], case == chunks[-1], False), state)
        parts.append(part)
        done += count
        mel = report.topic[f"{case}.mel"][0].T.copy()
        if len(expected):
            mel[:overlap] = mel[:overlap] * rise[:, None] + expected[-overlap:] * fall[:, None]
        expected = np.concatenate([expected[: max(len(expected) - overlap, 0)], mel])
    report.compare(f"{STREAM}.mel in {len(parts)} steps", np.concatenate(parts), recorded=expected)


def _compare_times(report: Report, cfm: CFMConfig, plan: SolverPlan, case: str, streaming: bool) -> None:
    report.compare(f"{case}.t_span", time_grid(cfm.n_timesteps, cfm.t_scheduler))
    times = [float(time) for time in plan.times]
    report.settings(**{f"{case}_t_fed": times, f"{case}_streaming": streaming})
