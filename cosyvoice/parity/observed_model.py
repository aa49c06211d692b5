"""A loaded model whose flow and vocoder note their calls, whatever engine and generation they are of.

Stages are wrapped where both engines share a seam: around the network of a flow of overlapping chunks, around the
networks of a vocoder whose chunks overlap. Both draw random numbers for every call; here those of the record.
Causal flows and vocoders are wrapped around their networks in the reference, around the stages in the native engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cosyvoice.engine.joint_vocoder import JointVocoderStage
from cosyvoice.engine.models import CosyVoiceModel
from cosyvoice.engine.overlapped_flow import OverlappedFlowStage
from cosyvoice.engine.stages import FlowStage, VocoderStage
from cosyvoice.native.loading import load_native_model
from cosyvoice.parity import native_hift
from cosyvoice.parity.drawn_noise import RecordedDraws
from cosyvoice.parity.observation import (
    Calls,
    ObservedChunkFlow,
    ObservedFlow,
    ObservedFlowStage,
    ObservedNetworks,
    ObservedVocoder,
    ObservedVocoderStage,
)
from cosyvoice.reference.loading import load_reference_model


@dataclass(frozen=True)
class Seeds:
    """What the random generator of the record was seeded with before the first call of each stage of a request."""

    flow: int = 0
    hift: int = 0


Load = Callable[[Path, Calls, Seeds], CosyVoiceModel]
"""Loads what is checked: the model of a released directory, its flow and vocoder noting their calls."""


def load_reference(directory: Path, calls: Calls, seeds: Seeds) -> CosyVoiceModel:
    """The reference implementation."""

    def flow(stage: Any) -> FlowStage:
        stage.model = ObservedFlow(stage.model, calls)
        observed: FlowStage = stage
        return observed

    def vocoder(stage: Any) -> VocoderStage:
        stage.model = ObservedVocoder(stage.model, calls)
        observed: VocoderStage = stage
        return observed

    return _observed(load_reference_model(directory, compat="released"), calls, seeds, flow, vocoder)


def native_loader(bundle: Path) -> Load:
    """Loads the native engine on `bundle`, which was converted of the directory."""

    def load(directory: Path, calls: Calls, seeds: Seeds) -> CosyVoiceModel:
        model = load_native_model(bundle, compat="released")

        def flow(stage: FlowStage) -> FlowStage:
            return ObservedFlowStage(stage, calls)

        def vocoder(stage: VocoderStage) -> VocoderStage:
            return ObservedVocoderStage(stage, calls, native_hift.Excitation(bundle, model.config).source)

        return _observed(model, calls, seeds, flow, vocoder)

    return load


def _observed(
    model: CosyVoiceModel,
    calls: Calls,
    seeds: Seeds,
    causal_flow: Callable[[Any], FlowStage],
    causal_vocoder: Callable[[Any], VocoderStage],
) -> CosyVoiceModel:
    """`model`, observed; how causal stages are is up to the engine."""
    flow, vocoder = model.stages.flow, model.stages.vocoder
    flow = _overlapped(flow, calls, seeds) if isinstance(flow, OverlappedFlowStage) else causal_flow(flow)
    if isinstance(vocoder, JointVocoderStage):
        vocoder = _joint(vocoder, model, calls, seeds)
    else:
        vocoder = causal_vocoder(vocoder)
    return type(model)(model.config, replace(model.stages, flow=flow, vocoder=vocoder))


def _overlapped(stage: OverlappedFlowStage, calls: Calls, seeds: Seeds) -> OverlappedFlowStage:
    observed = ObservedChunkFlow(stage.flow, calls, seeds.flow, stage.config.mel_dim)
    return OverlappedFlowStage(observed, stage.config, observed.noise, "released")


def _joint(stage: JointVocoderStage, model: CosyVoiceModel, calls: Calls, seeds: Seeds) -> JointVocoderStage:
    config = model.config.hift
    observed = ObservedNetworks(stage.networks, calls)
    return JointVocoderStage(observed, config, "released", lambda: RecordedDraws(config, seeds.hift))
