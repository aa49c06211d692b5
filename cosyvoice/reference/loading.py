"""Model directories, our own and released ones, as a model on PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cosyvoice.checkpoint.inspection import check_weights
from cosyvoice.checkpoint.released import load_spk2info, load_state_dict, network_paths
from cosyvoice.checkpoint.weights import read_weights
from cosyvoice.config.bundle import is_bundle, read_bundle
from cosyvoice.config.model import ModelConfig
from cosyvoice.config.released import detect_generation, read_model_config
from cosyvoice.engine.compat import Compat, apply_compat, check_compat
from cosyvoice.engine.frontends import text_frontend
from cosyvoice.engine.models import CosyVoiceModel, model_of
from cosyvoice.engine.prompt_encoders import OnnxSpeakerEncoder, OnnxSpeechTokenizer
from cosyvoice.engine.speakers import bundled_speakers, named_voices
from cosyvoice.engine.stages import Stages
from cosyvoice.engine.token_recogniser import token_recogniser
from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.flow.conditional import CausalConditionalFlow
from cosyvoice.flow.masked_diff import MaskedDiffWithXvec
from cosyvoice.hifigan.generator import CausalHiFTGenerator, HiFT, HiFTGenerator
from cosyvoice.hifigan.noise import PeriodicNoise, ReleasedNoise
from cosyvoice.reference.hift import TorchHiFTStage
from cosyvoice.reference.masked_diff import TorchMaskedDiffStage
from cosyvoice.reference.networks import build_flow, build_hift, build_llm, expected_shapes
from cosyvoice.reference.stages import TorchFlowStage, TorchLLMStage, TorchVocoderStage
from cosyvoice.voice.voice import Voice

SPK2INFO = "spk2info.pt"
# The output head of the text model that the decoder was made from: tied to the embedding and never used, so
# a file may have it or not.
_UNUSED = "llm.model.lm_head.weight"


def load_reference_model(
    directory: Path,
    threads: int | None = None,
    device: str = "cpu",
    compat: Compat = "corrected",
    variant: str = "",
) -> CosyVoiceModel:
    """Load a model directory, released or our own.

    Args:
        directory: holds the YAML file of a release or `config.json` (our own), and the weights.
        threads: of the operations of PyTorch and ONNX Runtime; None uses all cores and changes nothing.
        device: where the networks run, as PyTorch names it. The prompt encoders stay on the CPU.
        compat: whether mistakes of the released code are corrected or reproduced.
        variant: of the language model of a released directory, "rl" for `llm.rl.pt`.

    Raises `ModelError` for files that are missing, damaged or of another model, `ConfigError` for settings
    that this version does not know.
    """
    directory = Path(directory)
    check_compat(compat)
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
    if variant and not released:
        raise ConfigError(f"{directory} holds one set of weights; variants lie in released directories only")
    of_release = released or config.released or (bundle is not None and bundle.released)
    if of_release:
        config = apply_compat(config, compat)
    paths = network_paths(directory, variant) if released else {}
    for name, shapes in expected_shapes(config).items() if released else ():
        check_weights(paths[name], shapes, config.generation)
    llm, flow, hift = build_llm(config), build_flow(config), build_hift(config)
    networks: dict[str, nn.Module] = {"llm": llm, "flow": flow, "hift": hift}
    for name, network in networks.items():
        path = paths.get(name, directory / f"{name}.safetensors")
        weights = load_state_dict(path) if released else read_weights(path)[0]
        if network is hift and not has_weight_norm(weights):
            hift.remove_weight_norm()
        load_strictly(network, weights, path)
        network.requires_grad_(False).to(place)
    tokenizer = f"speech_tokenizer_{config.generation}.onnx" if released else "speech_tokenizer.onnx"
    text = text_frontend(config, directory, compat)
    stages = Stages(
        text=text,
        llm=TorchLLMStage(llm, threads),
        flow=_flow_stage(flow, threads, compat),
        vocoder=_vocoder_stage(hift, config, of_release, threads, compat),
        speech_tokenizer=OnnxSpeechTokenizer(directory / tokenizer, threads),
        speaker_encoder=OnnxSpeakerEncoder(directory / "campplus.onnx", threads),
        recogniser=token_recogniser(directory, text, threads),
        description={
            "backend": "reference",
            "device": device,
            "threads": str(threads or torch.get_num_threads()),
        },
    )
    return model_of(config, stages)


def _flow_stage(
    flow: MaskedDiffWithXvec | CausalConditionalFlow, threads: int | None, compat: Compat
) -> TorchMaskedDiffStage | TorchFlowStage:
    if isinstance(flow, MaskedDiffWithXvec):
        return TorchMaskedDiffStage(flow, threads, compat=compat)
    return TorchFlowStage(flow, threads)


def _vocoder_stage(
    hift: HiFT,
    config: ModelConfig,
    of_release: bool,
    threads: int | None,
    compat: Compat,
) -> TorchHiFTStage | TorchVocoderStage:
    if isinstance(hift, HiFTGenerator):
        return TorchHiFTStage(hift, threads, compat)
    if not isinstance(hift, CausalHiFTGenerator):
        raise ConfigError(f"no stage runs the vocoder {type(hift).__name__}; use a causal one or a HiFTGenerator")
    noise = ReleasedNoise(config.flow, config.hift) if of_release else PeriodicNoise(config.hift.nb_harmonics + 1)
    return TorchVocoderStage(hift, noise, threads)


def load_speakers(directory: Path, config: ModelConfig) -> dict[str, Voice]:
    """Built-in and saved speakers of a model directory; none where it brings no table.

    Raises `ModelError` for a damaged table, `VoiceError` for a speaker that cannot be a voice.
    """
    path = Path(directory) / SPK2INFO
    if not path.is_file():
        return bundled_speakers(directory, config)
    speakers = load_spk2info(path)
    return named_voices({name: {k: v.numpy() for k, v in s.items()} for name, s in speakers.items()}, config)


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


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"the device {name!r} cannot be used ({reason}); use 'cpu'") from None
    return device
