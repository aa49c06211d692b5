"""Parity of the native vocoder: F0, source, waveform, chunks of every recorded length and the sequence that they make,
and the fixed random numbers at the released dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from cosyvoice.config.model import FlowConfig, HiFTConfig, ModelConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.engine.joint_vocoder import VocoderNetworks
from cosyvoice.engine.stages import FloatArray, MelChunk, VocoderStage
from cosyvoice.hifigan.noise import BUFFER_SAMPLES
from cosyvoice.native.f0_predictor import F0Predictor
from cosyvoice.native.hift import NativeHiFT
from cosyvoice.native.noise import ReleasedNoise, released_start_noise
from cosyvoice.native.runtime import Runtime
from cosyvoice.native.source import HarmonicSource
from cosyvoice.native.vocoder import WEIGHTS_NAME
from cosyvoice.parity.converted import Converted, check_topics
from cosyvoice.parity.drawn_noise import RecordedDraws, recorded_seed
from cosyvoice.parity.golden import F0_TOLERANCE, Row
from cosyvoice.parity.hift import HIFT_INPUTS
from cosyvoice.parity.native_flow import NOISE_TOLERANCE
from cosyvoice.parity.report import Report


def check(converted: Converted) -> Iterator[Row]:
    """Rows of the topics `vN_hift` and `vN_official_rng`, as far as the folder has them."""
    yield from check_topics(converted, {"{}_hift": _hift, "{}_official_rng": _official_rng})


class Excitation:
    """F0 and source by the parts that the vocoder stage is made of, which it does not give out."""

    def __init__(self, bundle: Path, config: ModelConfig) -> None:
        weights: dict[str, NDArray[Any]] = load_file(bundle / WEIGHTS_NAME)
        self.noise = ReleasedNoise(config.flow, config.hift)
        self._f0 = F0Predictor(weights, config.hift)
        self._source = HarmonicSource(weights, config.hift, self.noise)

    def f0(self, mel: FloatArray, finalize: bool = True) -> NDArray[np.floating[Any]]:
        """F0 [frames] in Hz of an utterance `mel` [frames, n_mels], as far as it is known before the end."""
        return self._f0.step(mel, self._f0.init_state(), finalize)

    def source(self, mel: FloatArray, finalize: bool = True) -> FloatArray:
        """The source signal [time] of an utterance."""
        return self._source.step(self.f0(mel, finalize), self._source.init_state())


def _hift(report: Report, converted: Converted) -> None:
    report.inputs.update(HIFT_INPUTS)
    config = read_model_config(converted.bundle).hift
    if config.causal:
        _causal(report, converted)
    else:
        _symmetric(report, NativeHiFT(converted.bundle, config, Runtime()), config)


def _symmetric(report: Report, networks: VocoderNetworks, config: HiFTConfig) -> None:
    """The vocoder that sees both sides: whole, and with the source of its first frames given."""
    mel = np.ascontiguousarray(report.input("mel")[0].T)
    f0 = networks.predict_f0(mel)
    report.compare("f0", f0[None], F0_TOLERANCE)
    cached = report.topic.tensors.get("cache.cache_source", np.zeros((1, 1, 0), np.float32))[0, 0]
    for name, samples, head in (("source", "wav", cached[:0]), ("cache.source", "cache.wav", cached)):
        if name not in report.topic:
            continue
        draws = RecordedDraws(config, recorded_seed(report.topic, name))
        source = networks.excite(f0, draws.phases(), draws.normal(report.topic[name].shape[2]))
        source[: len(head)] = head
        report.compare(name, source[None, None], F0_TOLERANCE)
        recorded = networks.decode(mel, np.ascontiguousarray(report.topic[name][0, 0]))
        own = networks.decode(mel, source)
        report.compare_either(samples, own[None], recorded[None], F0_TOLERANCE, "source")


def _causal(report: Report, converted: Converted) -> None:
    stage, parts = converted.model.stages.vocoder, Excitation(converted.bundle, converted.model.config)
    mel = np.ascontiguousarray(report.input("mel")[0].T)
    report.compare("sine_noise", parts.noise(report.topic["sine_noise"].shape[1])[None], 0.0, "bit equal")
    report.compare("f0", parts.f0(mel)[None], F0_TOLERANCE)
    report.compare("f0_nofinal", parts.f0(mel, finalize=False)[None], F0_TOLERANCE)
    report.compare("source", parts.source(mel)[None, None], F0_TOLERANCE)
    samples, _ = stage.step(MelChunk(mel, finalize=True), stage.init_state())
    report.compare("wav", samples[None], F0_TOLERANCE)
    lengths = sorted(
        int(match[1]) for name in report.topic.tensors if (match := re.fullmatch(r"chunk(\d+)\.wav", name))
    )
    for length in lengths:
        samples, _ = stage.step(MelChunk(mel[:length], finalize=False), stage.init_state())
        report.compare(f"chunk{length}.wav", samples[None], F0_TOLERANCE)
    _growing(report, stage, mel, lengths)


def _growing(report: Report, stage: VocoderStage, mel: FloatArray, lengths: list[int]) -> None:
    """The recorded chunks one after the other through one state, each with all samples so far."""
    state, samples, done = stage.init_state(), np.zeros(0, np.float32), 0
    for length in [*lengths, None]:
        new, state = stage.step(MelChunk(mel[done:length], finalize=length is None), state)
        samples, done = np.concatenate([samples, new]), length or len(mel)
        name = "wav" if length is None else f"chunk{length}.wav"
        report.compare(f"{name} of one state", samples[None], F0_TOLERANCE, recorded=report.topic[name])


def _official_rng(report: Report, converted: Converted) -> None:
    topic = report.topic
    # The defaults of the configuration are the released dimensions.
    noise = ReleasedNoise(FlowConfig(), HiFTConfig())
    flow_noise = released_start_noise()[None]
    head, tail = topic["rand_noise_head"].shape[2], topic["rand_noise_tail"].shape[2]
    report.compare("rand_noise_head", flow_noise[:, :, :head], NOISE_TOLERANCE)
    report.compare("rand_noise_tail", flow_noise[:, :, -tail:], NOISE_TOLERANCE)
    report.compare("sine_noise_head", noise(topic["sine_noise_head"].shape[1])[None], 0.0, "bit equal")
    count = topic["sine_noise_tail"].shape[1]
    report.compare("sine_noise_tail", noise(count, BUFFER_SAMPLES - count)[None], 0.0, "bit equal")
