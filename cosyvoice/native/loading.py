"""A bundle as a model on the native engine. Nothing here, and nothing below it, needs PyTorch."""

from __future__ import annotations

from pathlib import Path

from cosyvoice.config.bundle import Bundle, read_bundle
from cosyvoice.config.model import ModelConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.engine.frontends import text_frontend
from cosyvoice.engine.models import CosyVoice3Model
from cosyvoice.engine.prompt_encoders import OnnxSpeakerEncoder, OnnxSpeechTokenizer
from cosyvoice.engine.stages import Stages
from cosyvoice.native.flow import NativeFlowStage
from cosyvoice.native.llm import NativeLLMStage
from cosyvoice.native.noise import PeriodicNoise, ReleasedNoise, SourceNoise
from cosyvoice.native.runtime import Runtime
from cosyvoice.native.solver import FlowOptions
from cosyvoice.native.vocoder import NativeVocoderStage


def load_native_model(
    directory: Path, threads: int | None = None, flow: FlowOptions | None = None, slots: int = 8
) -> CosyVoice3Model:
    """Load a bundle, which `cosyvoice convert` makes.

    Args:
        directory: of the bundle.
        threads: of one operation; None uses all cores.
        flow: solver, steps and guidance of the flow; None takes those of the model.
        slots: requests whose speech tokens are computed together.

    Raises `ModelError` for a bundle that is incomplete, damaged, or made for another version, `ConfigError`
    for settings that this version does not know.
    """
    directory = Path(directory)
    bundle = read_bundle(directory)
    config = read_model_config(directory)
    runtime = Runtime(threads)
    stages = Stages(
        text=text_frontend(config, directory),
        llm=NativeLLMStage(directory, config.llm, config.end_of_prompt_id, runtime, slots),
        flow=NativeFlowStage(directory, config.flow, runtime, flow),
        vocoder=NativeVocoderStage(directory, config.hift, source_noise(config, bundle), runtime),
        speech_tokenizer=OnnxSpeechTokenizer(directory / "speech_tokenizer.onnx", runtime.threads),
        speaker_encoder=OnnxSpeakerEncoder(directory / "campplus.onnx", runtime.threads),
        concurrent=True,
        description={**runtime.description, "precision": bundle.precision},
    )
    return CosyVoice3Model(config, stages)


def source_noise(config: ModelConfig, bundle: Bundle) -> SourceNoise:
    """The noise that the vocoder was trained with."""
    if bundle.released:
        return ReleasedNoise(config.flow, config.hift)
    return PeriodicNoise(config.hift.nb_harmonics + 1)
