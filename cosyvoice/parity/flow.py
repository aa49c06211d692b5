"""Parity of the flow stage: encoder, estimator, sampled mel, intermediate outputs and training losses.

The estimator and its parts are observed through forward hooks while the public methods run, so that a check
sees exactly what inference and training compute. A recorded tensor that nothing here reproduces becomes a
failing row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.released import read_model_config
from cosyvoice.flow.batch import PREFIX_FRACTION, PREFIX_PROBABILITY, STREAMING_PROBABILITY, FlowBatch, TrainingDraws
from cosyvoice.flow.conditional import CausalConditionalFlow, ConditionalFlow
from cosyvoice.flow.flow_matching import FlowMatchingDraws
from cosyvoice.parity.flow_cases import ESTIMATOR_INPUTS, calls_of, check_cases, check_single, first_output_of
from cosyvoice.parity.golden import ParityFolder, Row, Topic
from cosyvoice.parity.report import Report
from cosyvoice.reference.networks import build_flow


def load_flow(folder: ParityFolder, generation: str) -> ConditionalFlow:
    """The flow of a released model directory, ready for inference; its names must fit one to one."""
    directory = folder.model_dir(generation)
    flow = build_flow(read_model_config(directory))
    flow.load_state_dict(load_state_dict(directory / "flow.pt"), strict=True)
    return flow.eval()


def check(folder: ParityFolder, generation: str = "v3") -> Iterator[Row]:
    """Rows of the topics `vN_flow`, `vN_flow_debug` and `vN_flow_train`, as far as the folder has them."""
    flow = load_flow(folder, generation)
    for name, check_topic in (("flow", check_cases), ("flow_debug", _debug), ("flow_train", _training)):
        if folder.has(f"{generation}_{name}"):
            yield from _complete(folder.topic(f"{generation}_{name}"), check_topic, flow)


def _complete(
    topic: Topic, check_topic: Callable[[Report, ConditionalFlow], None], flow: ConditionalFlow
) -> Iterator[Row]:
    report = Report(topic)
    check_topic(report, flow)
    yield from report.finish()


def _debug(report: Report, flow: ConditionalFlow) -> None:
    with ExitStack() as stack:
        outputs = {
            name: stack.enter_context(first_output_of(module))
            for name in report.topic.tensors
            if (module := _module_named(flow, name)) is not None
        }
        check_single(report, flow)
    for name, output in outputs.items():
        report.compare(name, output[0])

    cases = [name for name in report.topic.tensors if name.startswith("ragged.out_streaming")]
    if cases:
        x, mask, mu, t, spks, cond = (torch.from_numpy(report.input(f"ragged.{name}")) for name in ESTIMATOR_INPUTS)
    for name in cases:
        with torch.inference_mode():
            out = flow.decoder.estimator(x, mask, mu, t, spks, cond, streaming=name.endswith("1"))
        report.compare(name, out * mask)


def _module_named(flow: ConditionalFlow, name: str) -> nn.Module | None:
    """The module whose output is recorded as `enc.PATH` (in the flow) or `est.PATH` (in the estimator)."""
    owner, _, path = name.partition(".")
    root = {"enc": flow, "est": flow.decoder.estimator}.get(owner)
    if root is None:
        return None
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def _training(report: Report, flow: ConditionalFlow) -> None:
    def fed(name: str) -> Tensor:
        return torch.from_numpy(report.input(f"batch.{name}"))

    batch = FlowBatch(
        token=fed("speech_token"),
        token_len=fed("speech_token_len"),
        mel=fed("speech_feat"),
        mel_len=fed("speech_feat_len"),
        speaker_embedding=fed("embedding"),
    )
    causal = isinstance(flow, CausalConditionalFlow)
    report.settings(training_cfg_rate=flow.config.cfm.training_cfg_rate, sigma_min=flow.config.cfm.sigma_min)
    runs = [name.removesuffix(".loss") for name in report.topic.tensors if name.endswith(".loss")]
    for run in sorted(runs):
        options = report.options[run]
        draws = _recorded_draws(batch, options["python_random_seed"], options["torch_manual_seed"], causal)
        with torch.inference_mode(), calls_of(flow.decoder.estimator) as calls:
            conditions = flow.training_conditions(batch, draws.prefix, draws.streaming)
            loss = flow(batch, draws)["loss"]
        report.exact(f"{run}.streaming", calls[0]["streaming"], options["streaming"])
        report.compare(f"{run}.t", draws.matching.t)
        report.compare(f"{run}.noise", draws.matching.noise)
        report.compare(f"{run}.cfg_rand", draws.matching.condition)
        for name in ("mask", "mu", "spks", "cond"):
            report.compare(f"{run}.{name}", getattr(conditions, name))
        report.compare(f"{run}.pred", calls[0]["out"])
        report.compare(f"{run}.loss", loss)


def _recorded_draws(batch: FlowBatch, python_seed: int, torch_seed: int, causal: bool) -> TrainingDraws:
    """The draws of the released implementation: Python's generator decides about streaming, where there is a choice,
    and prefixes."""
    generator = random.Random(python_seed)
    streaming = causal and generator.random() < STREAMING_PROBABILITY
    prefix = []
    for frames in batch.mel_len.tolist():
        hidden = generator.random() < PREFIX_PROBABILITY
        prefix.append(0 if hidden else generator.randint(0, int(PREFIX_FRACTION * frames)))
    matching = FlowMatchingDraws.sample(batch.mel.transpose(1, 2), torch.Generator().manual_seed(torch_seed))
    return TrainingDraws(streaming, torch.tensor(prefix), matching)
