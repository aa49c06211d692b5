"""Model directories, our own and released ones, as a model on PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.checkpoint.weights import read_weights
from cosyvoice.config.bundle import is_bundle, read_bundle
from cosyvoice.config.model import ModelConfig
from cosyvoice.config.released import detect_generation, read_model_config
from cosyvoice.engine.frontends import text_frontend
from cosyvoice.engine.models import CosyVoice3Model
from cosyvoice.engine.prompt_encoders import OnnxSpeakerEncoder, OnnxSpeechTokenizer
from cosyvoice.engine.stages import Stages
from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.flow.flow import CausalMaskedDiffWithDiT
from cosyvoice.hifigan.generator import CausalHiFTGenerator
from cosyvoice.hifigan.noise import PeriodicNoise, ReleasedNoise, SourceNoise
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM
from cosyvoice.reference.stages import TorchFlowStage, TorchLLMStage, TorchVocoderStage

# The output head of the text model that the decoder was made from: tied to the embedding and never used, so
# a file may have it or not.
_UNUSED = "llm.model.lm_head.weight"


def load_reference_model(directory: Path, threads: int | None = None, device: str = "cpu") -> CosyVoice3Model:
    """Load a model directory, released or our own.

    Args:
        directory: holds `cosyvoice3.yaml` (released) or `config.json` (our own), and the weights.
        threads: of the operations of PyTorch and ONNX Runtime; None uses all cores and changes nothing.
        device: where the networks run, as PyTorch names it. The prompt encoders stay on the CPU.

    Raises `ModelError` for files that are missing, damaged or of another model, `ConfigError` for settings
    that this version does not know.
    """
    directory = Path(directory)
    config = read_model_config(directory)
    if threads is not None and threads < 1:
        raise ConfigError(f"{threads} threads cannot work; use at least 1, or leave it out for all cores")
    place = _device(device)
    released = detect_generation(directory) is not None
    bundle = read_bundle(directory) if is_bundle(directory) else None
    if bundle is not None and not bundle.float_weights:
        raise ModelError(
            f"{directory} is quantised to {bundle.precision}, which the native engine alone can run; "
            "leave out backend='reference', or load the model that it was converted from"
        )
    extension = ".pt" if released else ".safetensors"
    llm = CosyVoice3LM(config.llm, config.end_of_prompt_id)
    flow = CausalMaskedDiffWithDiT(config.flow)
    hift = CausalHiFTGenerator(config.hift)
    networks: tuple[tuple[str, nn.Module], ...] = (("llm", llm), ("flow", flow), ("hift", hift))
    for name, network in networks:
        path = directory / f"{name}{extension}"
        weights = load_state_dict(path) if released else read_weights(path)[0]
        if network is hift and not has_weight_norm(weights):
            hift.remove_weight_norm()
        load_strictly(network, weights, path)
        network.requires_grad_(False).to(place)
    tokenizer = f"speech_tokenizer_{config.generation}.onnx" if released else "speech_tokenizer.onnx"
    noise = _source_noise(config, released or (bundle is not None and bundle.released))
    stages = Stages(
        text=text_frontend(config, directory),
        llm=TorchLLMStage(llm, threads),
        flow=TorchFlowStage(flow, threads),
        vocoder=TorchVocoderStage(hift, noise, threads),
        speech_tokenizer=OnnxSpeechTokenizer(directory / tokenizer, threads),
        speaker_encoder=OnnxSpeakerEncoder(directory / "campplus.onnx", threads),
        description={
            "backend": "reference",
            "device": device,
            "threads": str(threads or torch.get_num_threads()),
        },
    )
    return CosyVoice3Model(config, stages)


def has_weight_norm(weights: Mapping[str, Tensor]) -> bool:
    """Whether the vocoder's weights are kept as magnitude and direction; those of a bundle are folded."""
    return "conv_pre.parametrizations.weight.original0" in weights


def load_strictly(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put `weights` of the file `path` into `network`; every name and shape must fit (`ModelError`)."""
    kept = {name: tensor for name, tensor in weights.items() if name != _UNUSED}
    expected = {name: tensor for name, tensor in network.state_dict().items() if name != _UNUSED}
    missing = sorted(expected.keys() - kept.keys())
    unknown = sorted(kept.keys() - expected.keys())
    if missing or unknown:
        problem = f"lacks {missing[0]!r}" if missing else f"holds the unknown {unknown[0]!r}"
        raise ModelError(
            f"{path} {problem} ({len(missing)} missing, {len(unknown)} unknown); it does not belong to the "
            "configuration beside it, so copy the complete model directory"
        )
    for name, tensor in kept.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{path}: {name!r} has the shape {tuple(tensor.shape)}, the configuration beside it asks for "
                f"{tuple(expected[name].shape)}; copy the complete model directory"
            )
    network.load_state_dict(kept, strict=False)


def _source_noise(config: ModelConfig, released: bool) -> SourceNoise:
    """The noise that the vocoder was trained with."""
    if released:
        return ReleasedNoise(config.flow, config.hift)
    return PeriodicNoise(config.hift.nb_harmonics + 1)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"the device {name!r} cannot be used ({reason}); use 'cpu'") from None
    return device
