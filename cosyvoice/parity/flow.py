"""Parity of the flow stage of V3: encoder, estimator, sampled mel, intermediate outputs and training losses.

The estimator and its parts are observed through forward hooks while the public methods run, so that a check
sees exactly what inference and training compute. A recorded tensor that nothing here reproduces becomes a
failing row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.released import read_model_config
from cosyvoice.errors import ModelError
from cosyvoice.flow.flow import (
    PREFIX_FRACTION,
    PREFIX_PROBABILITY,
    STREAMING_PROBABILITY,
    CausalMaskedDiffWithDiT,
    FlowBatch,
    TrainingDraws,
)
from cosyvoice.flow.flow_matching import FlowMatchingDraws
from cosyvoice.flow.solver import time_grid
from cosyvoice.parity.golden import ParityFolder, Row, Topic
from cosyvoice.parity.report import Report

CASE_INPUTS = ("token", "prompt_token", "prompt_feat", "embedding")
ESTIMATOR_INPUTS = ("x", "mask", "mu", "t", "spks", "cond")


def load_flow(folder: ParityFolder, generation: str) -> CausalMaskedDiffWithDiT:
    """The flow of a released model directory, ready for inference; its names must fit one to one."""
    if generation != "v3":
        raise ModelError(f"the flow of {generation} cannot be checked; there is a flow for v3 only")
    directory = folder.model_dir(generation)
    flow = CausalMaskedDiffWithDiT(read_model_config(directory).flow)
    flow.load_state_dict(load_state_dict(directory / "flow.pt"), strict=True)
    return flow.eval()


def check(folder: ParityFolder, generation: str = "v3") -> Iterator[Row]:
    """Rows of the topics `vN_flow`, `vN_flow_debug` and `vN_flow_train`, as far as the folder has them."""
    flow = load_flow(folder, generation)
    for name, check_topic in (("flow", _inference), ("flow_debug", _debug), ("flow_train", _training)):
        if folder.has(f"{generation}_{name}"):
            yield from _complete(folder.topic(f"{generation}_{name}"), check_topic, flow)


def _fed(report: Report) -> Callable[[str], Tensor]:
    """Recorded tensors to feed, by name."""
    return lambda name: torch.from_numpy(report.input(name))


def _complete(topic: Topic, check_topic: Any, flow: CausalMaskedDiffWithDiT) -> Iterator[Row]:
    report = Report(topic)
    check_topic(report, flow)
    yield from report.finish()


@contextmanager
def _calls_of(module: nn.Module) -> Iterator[list[dict[str, Any]]]:
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
def _first_output_of(module: nn.Module) -> Iterator[list[Tensor]]:
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


def _run_case(
    report: Report,
    flow: CausalMaskedDiffWithDiT,
    case: str,
    inputs: dict[str, Tensor],
    options: dict[str, Any],
) -> None:
    """One inference: conditions, time grid, estimator calls and mel, recorded under `CASE.`."""
    streaming, finalize = bool(options["streaming"]), bool(options["finalize"])
    arguments = (inputs["token"], inputs["prompt_token"], inputs["prompt_feat"], inputs["embedding"])
    with torch.inference_mode():
        conditions = flow.inference_conditions(*arguments, finalize=finalize)
    config = flow.config.cfm
    grid = time_grid(config.n_timesteps, config.t_scheduler)
    with _calls_of(flow.decoder.estimator) as calls:
        mel = flow.inference(*arguments, streaming=streaming, finalize=finalize)
    for name in ("mu", "spks", "cond", "mask"):
        report.compare(f"{case}.{name}", getattr(conditions, name))
    report.compare(f"{case}.t_span", grid)
    times = [float(call["t"][0]) for call in calls]
    report.settings(**{f"{case}_t_fed": times, f"{case}_streaming": calls[0]["streaming"]})
    for when, call in (("first", calls[0]), ("last", calls[-1])):
        for name in (*ESTIMATOR_INPUTS, "out"):
            report.compare(f"{case}.est_{when}.{name}", call[name])
    report.compare(f"{case}.mel", mel)


def _inference(report: Report, flow: CausalMaskedDiffWithDiT) -> None:
    fed = _fed(report)
    cases = [name.removesuffix(".mel") for name in report.topic.tensors if name.endswith(".mel")]
    for case in sorted(cases):
        inputs = {name: fed(f"{case}.{name}") for name in CASE_INPUTS}
        _run_case(report, flow, case, inputs, report.options[case])
    if "rand_noise_head" in report.topic:
        frames = report.topic["rand_noise_head"].shape[2]
        report.compare("rand_noise_head", flow.start_noise[:, :, :frames], 0.0, "bit equal")
    report.settings(rand_noise_shape=list(flow.start_noise.shape))


def _debug(report: Report, flow: CausalMaskedDiffWithDiT) -> None:
    fed = _fed(report)
    token, embedding = fed("token"), fed("embedding")
    inputs = {
        "token": token,
        "prompt_token": token[:, :0],
        "prompt_feat": torch.zeros(len(token), 0, flow.config.mel_dim),
        "embedding": embedding,
    }
    with ExitStack() as stack:
        outputs = {
            name: stack.enter_context(_first_output_of(module))
            for name in report.topic.tensors
            if (module := _module_named(flow, name)) is not None
        }
        streaming = report.options.get("run_streaming", False)
        _run_case(report, flow, "run", inputs, {"streaming": streaming, "finalize": True})
    for name, output in outputs.items():
        report.compare(name, output[0])

    cases = [name for name in report.topic.tensors if name.startswith("ragged.out_streaming")]
    if cases:
        x, mask, mu, t, spks, cond = (fed(f"ragged.{name}") for name in ESTIMATOR_INPUTS)
    for name in cases:
        with torch.inference_mode():
            out = flow.decoder.estimator(x, mask, mu, t, spks, cond, streaming=name.endswith("1"))
        report.compare(name, out * mask)


def _module_named(flow: CausalMaskedDiffWithDiT, name: str) -> nn.Module | None:
    """The module whose output is recorded as `enc.PATH` (in the flow) or `est.PATH` (in the estimator)."""
    owner, _, path = name.partition(".")
    root = {"enc": flow, "est": flow.decoder.estimator}.get(owner)
    if root is None:
        return None
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def _training(report: Report, flow: CausalMaskedDiffWithDiT) -> None:
    fed = _fed(report)
    batch = FlowBatch(
        token=fed("batch.speech_token"),
        token_len=fed("batch.speech_token_len"),
        mel=fed("batch.speech_feat"),
        mel_len=fed("batch.speech_feat_len"),
        speaker_embedding=fed("batch.embedding"),
    )
    report.settings(training_cfg_rate=flow.config.cfm.training_cfg_rate, sigma_min=flow.config.cfm.sigma_min)
    runs = [name.removesuffix(".loss") for name in report.topic.tensors if name.endswith(".loss")]
    for run in sorted(runs):
        options = report.options[run]
        draws = _recorded_draws(batch, options["python_random_seed"], options["torch_manual_seed"])
        with torch.inference_mode(), _calls_of(flow.decoder.estimator) as calls:
            conditions = flow.training_conditions(batch, draws.prefix)
            loss = flow(batch, draws)["loss"]
        report.exact(f"{run}.streaming", calls[0]["streaming"], options["streaming"])
        report.compare(f"{run}.t", draws.matching.t)
        report.compare(f"{run}.noise", draws.matching.noise)
        report.compare(f"{run}.cfg_rand", draws.matching.condition)
        for name in ("mask", "mu", "spks", "cond"):
            report.compare(f"{run}.{name}", getattr(conditions, name))
        report.compare(f"{run}.pred", calls[0]["out"])
        report.compare(f"{run}.loss", loss)


def _recorded_draws(batch: FlowBatch, python_seed: int, torch_seed: int) -> TrainingDraws:
    """The draws of the released implementation: Python's generator decides about streaming and prefixes."""
    generator = random.Random(python_seed)
    streaming = generator.random() < STREAMING_PROBABILITY
    prefix = []
    for frames in batch.mel_len.tolist():
        hidden = generator.random() < PREFIX_PROBABILITY
        prefix.append(0 if hidden else generator.randint(0, int(PREFIX_FRACTION * frames)))
    matching = FlowMatchingDraws.sample(batch.mel.transpose(1, 2), torch.Generator().manual_seed(torch_seed))
    return TrainingDraws(streaming, torch.tensor(prefix), matching)
