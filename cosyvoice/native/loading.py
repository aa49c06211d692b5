"""A bundle as a model on the native engine. Nothing here, and nothing below it, needs PyTorch."""

from __future__ import annotations

from pathlib import Path

from cosyvoice.config.bundle import Bundle, read_bundle
from cosyvoice.config.model import AnyFlowConfig, CausalMaskedDiffConfig, FlowConfig, MaskedDiffConfig, ModelConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.engine.compat import Compat, apply_compat, check_compat
from cosyvoice.engine.frontends import text_frontend
from cosyvoice.engine.models import CosyVoiceModel, model_of
from cosyvoice.engine.prompt_encoders import OnnxSpeakerEncoder, OnnxSpeechTokenizer
from cosyvoice.engine.stages import FlowStage, Stages, VocoderStage
from cosyvoice.engine.token_recogniser import token_recogniser
from cosyvoice.native.causal_masked_diff import NativeCausalMaskedDiffStage
from cosyvoice.native.causal_masked_diff import cache_values as unet_values
from cosyvoice.native.engines import flow_engine, vocoder_engine
from cosyvoice.native.flow import CacheType, NativeFlowStage
from cosyvoice.native.flow import cache_values as dit_values
from cosyvoice.native.hift import NativeHiFTStage
from cosyvoice.native.llm import NativeLLMStage
from cosyvoice.native.masked_diff import NativeMaskedDiffStage
from cosyvoice.native.memory import return_free_memory
from cosyvoice.native.noise import PeriodicNoise, ReleasedNoise, SourceNoise
from cosyvoice.native.openvino import OpenVINO
from cosyvoice.native.options import VocoderOptions
from cosyvoice.native.runtime import Runtime
from cosyvoice.native.solver import FlowOptions, SolverPlan
from cosyvoice.native.vocoder import NativeVocoderStage

CONTEXT_FRAMES = 500
"""Mel frames, ten seconds with the reference, that a frame of a stream attends to. Cost and memory of a chunk stay flat
beyond that; a piece of text that fits into it is exact."""
CONTEXT_BYTES = 520 << 20
"""Memory for the flow's cache of one stream. The released geometry comes to its end after six seconds."""
SINGLE_PRECISION_RATE = 32 << 20
"""Bytes a second of speech up to which the flow's cache is kept in single precision."""


def load_native_model(
    directory: Path,
    threads: int | None = None,
    flow: FlowOptions | None = None,
    slots: int = 8,
    context_frames: int | None = CONTEXT_FRAMES,
    compat: Compat = "corrected",
    vocoder: VocoderOptions | None = None,
) -> CosyVoiceModel:
    """Load a bundle, which `cosyvoice convert` makes.

    Args:
        directory: of the bundle.
        threads: of one operation; None uses all cores.
        flow: solver, steps, guidance and engine of the flow; None takes those of the model.
        slots: requests whose speech tokens are computed together.
        context_frames: mel frames that the flow keeps for a stream, at most as many as fit into `CONTEXT_BYTES`;
            None: all, whatever memory they take. A longer piece of speech attends to its latest chunks and the
            beginning of the reference only.
        compat: whether mistakes of the released code are corrected or reproduced.
        vocoder: engine of the vocoder.

    Raises `ModelError` for a bundle that is incomplete, damaged, or made for another version, `ConfigError`
    for settings that this version does not know, `MissingDependencyError` for an engine that is not installed.
    """
    directory = Path(directory)
    check_compat(compat)
    bundle = read_bundle(directory)
    config = read_model_config(directory)
    if bundle.released:
        config = apply_compat(config, compat)
    runtime, options = Runtime(threads), flow or FlowOptions()
    engine = flow_engine(options, config.flow, bundle, runtime.threads)
    second = vocoder_engine(vocoder or VocoderOptions(), config.hift, bundle, runtime.threads)
    text = text_frontend(config, directory, compat)
    stages = Stages(
        text=text,
        llm=NativeLLMStage(directory, config.llm, config.end_of_prompt_id, runtime, slots),
        flow=_flow_stage(directory, config.flow, runtime, engine, options, context_frames, compat),
        vocoder=_vocoder_stage(directory, config, bundle, runtime, second, compat),
        speech_tokenizer=OnnxSpeechTokenizer(directory / "speech_tokenizer.onnx", runtime.threads),
        speaker_encoder=OnnxSpeakerEncoder(directory / "campplus.onnx", runtime.threads),
        recogniser=token_recogniser(directory, text, runtime.threads),
        # On two cores every stage takes both: overlapped, they were measured to delay the first chunk and gain nothing.
        concurrent=runtime.threads > 2,
        description={**runtime.description, **_description(flow=engine, vocoder=second), "precision": bundle.precision},
    )
    return_free_memory()
    return model_of(config, stages)


def _flow_stage(
    directory: Path,
    config: AnyFlowConfig,
    runtime: Runtime,
    engine: OpenVINO | None,
    options: FlowOptions,
    context_frames: int | None,
    compat: Compat,
) -> FlowStage:
    if isinstance(config, MaskedDiffConfig):
        return NativeMaskedDiffStage(directory, config, runtime, options, compat=compat)
    cache_type, max_context = flow_memory(config, options, context_frames)
    if isinstance(config, CausalMaskedDiffConfig):
        return NativeCausalMaskedDiffStage(directory, config, runtime, options, max_context, cache_type=cache_type)
    return NativeFlowStage(directory, config, engine or runtime, options, max_context, cache_type=cache_type)


def _description(**engines: OpenVINO | None) -> dict[str, str]:
    """Of the engines besides ONNX Runtime, by stage."""
    return {stage: f"OpenVINO {used.version}, {used.arithmetic}" for stage, used in engines.items() if used is not None}


def _vocoder_stage(
    directory: Path,
    config: ModelConfig,
    bundle: Bundle,
    runtime: Runtime,
    engine: OpenVINO | None,
    compat: Compat,
) -> VocoderStage:
    if not config.hift.causal:
        return NativeHiFTStage(directory, config.hift, runtime, compat)
    return NativeVocoderStage(directory, config.hift, source_noise(config, bundle), runtime, engine)


def flow_memory(
    config: FlowConfig | CausalMaskedDiffConfig, options: FlowOptions, context_frames: int | None
) -> tuple[CacheType, int | None]:
    """Precision of the flow's cache, and the frames of context that it holds: whole attention chunks, at least one."""
    plan = SolverPlan.of(config.cfm, options)
    values = dit_values(config, plan) if isinstance(config, FlowConfig) else unet_values(config, plan)
    rate = config.input_frame_rate * config.token_mel_ratio
    cache_type: CacheType = "float32" if 4 * values * rate <= SINGLE_PRECISION_RATE else "float16"
    if context_frames is None:
        return cache_type, None
    frames = min(context_frames, CONTEXT_BYTES // (values * (4 if cache_type == "float32" else 2)))
    chunk = config.attention_chunk * config.token_mel_ratio
    return cache_type, max(frames // chunk, 1) * chunk


def source_noise(config: ModelConfig, bundle: Bundle) -> SourceNoise:
    """The noise that the vocoder was trained with."""
    if bundle.released:
        return ReleasedNoise(config.flow, config.hift)
    return PeriodicNoise(config.hift.nb_harmonics + 1)
