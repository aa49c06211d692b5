"""Run folders from a model: the reverse of `assemble`, so that whoever has the model can go on training it.

A run folder that was unpacked holds `initial.pt` instead of a checkpoint: its training begins anew, with the weights
of the model. Weights that an ONNX file keeps under their own names are read back from there; the others, and the
decoders that only training needs, lie in `training.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from cosyvoice.checkpoint.weights import read_weights, write_weights
from cosyvoice.errors import ConfigError, MissingDependencyError, ModelError
from cosyvoice.export.formats import unfold_weight_norm
from cosyvoice.flow.flow import CausalMaskedDiffWithDiT
from cosyvoice.hifigan.generator import CausalHiFTGenerator
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM
from cosyvoice.speaker_encoder.model import SpeakerEncoder
from cosyvoice.speech_tokenizer.model import SpeechTokenizer
from cosyvoice.training.configuration import SETTINGS, STAGES
from cosyvoice.training.loop import INITIAL
from cosyvoice.training.run import MODULES
from cosyvoice.training.settings import StageSettings

TRAINING_FILE = "training.safetensors"
_ONNX_FILES = {"tokenizer": ("speech_tokenizer.onnx", "aligner.onnx"), "speaker": ("campplus.onnx",)}
_ONNX_PREFIX = {"tokenizer": "tokenizer.", "speaker": ""}
_FILES = {"llm": "llm.safetensors", "flow": "flow.safetensors", "vocoder": "hift.safetensors"}
_NETWORKS: dict[str, Callable[[Any], nn.Module]] = {
    "tokenizer": SpeechTokenizer,
    "speaker": SpeakerEncoder,
    "llm": partial(CosyVoice3LM, end_of_prompt_id=None),
    "flow": CausalMaskedDiffWithDiT,
    "vocoder": CausalHiFTGenerator,
}


def write_training_file(folder: Path, networks: Mapping[str, nn.Module], settings: Mapping[str, StageSettings]) -> None:
    """Write what training needs of the prompt encoders and the ONNX files in `folder` do not keep.

    `networks` and `settings` are those of the stages `tokenizer` and `speaker`.
    """
    kept = {
        f"{stage}.{name}": value
        for stage, network in networks.items()
        for name, value in network.state_dict().items()
        if name not in _readable(folder, stage)
    }
    write_weights(folder / TRAINING_FILE, kept, {stage: one.model_dump_json() for stage, one in settings.items()})


def unpack(model: Path, runs: Path) -> list[Path]:
    """Write a run folder for every network of the bundle `model` into `runs`; returns the folders.

    Raises:
        ConfigError: a run folder exists already.
        ModelError: `model` was not made by `assemble`, or a file of it is missing or damaged.
    """
    taken = [runs / stage for stage in STAGES if (runs / stage).exists()]
    if taken:
        raise ConfigError(f"{taken[0]} exists already: choose another folder for the runs, or delete it")
    if not (model / TRAINING_FILE).is_file():
        raise ModelError(f"{model} holds no {TRAINING_FILE}: only models that `cosyvoice train assemble` made unpack")
    found = {stage: _read_stage(model, stage) for stage in STAGES}
    for stage, (settings, weights) in found.items():
        folder = runs / stage
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text(settings.model_dump_json(indent=1))
        torch.save({"average": {MODULES[stage]: weights}}, folder / INITIAL)
    return [runs / stage for stage in found]


def _read_stage(model: Path, stage: str) -> tuple[StageSettings, dict[str, Tensor]]:
    """Settings and weights of one network, checked against each other."""
    path = model / _FILES.get(stage, TRAINING_FILE)
    weights, metadata = read_weights(path)
    written = metadata.get("settings" if stage in _FILES else stage)
    if written is None:
        raise ModelError(f"{path} does not tell how {stage} was trained: only models made by `assemble` unpack")
    settings = cast(Any, SETTINGS[stage].parse(json.loads(written), str(path)))
    network = _NETWORKS[stage](settings.model)
    if stage == "vocoder":
        unfolded = unfold_weight_norm({name: value.numpy() for name, value in weights.items()})
        weights = {name: torch.from_numpy(value) for name, value in unfolded.items()}
    elif stage not in _FILES:
        own = {name.removeprefix(f"{stage}."): value for name, value in weights.items() if name.startswith(f"{stage}.")}
        read = {name: value for name, value in _readable(model, stage).items() if name in network.state_dict()}
        weights = {**read, **own}
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise ModelError(
            f"the weights of {stage} in {model} do not fit its settings; copy the complete model"
        ) from None
    return settings, network.state_dict()


def _readable(folder: Path, stage: str) -> dict[str, Tensor]:
    """Weights that the ONNX files of a stage keep under the names of the network, in single precision."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingDependencyError("reading ONNX weights needs: pip install 'cosyvoice[export]'") from error
    found = {}
    for file in _ONNX_FILES[stage]:
        for tensor in onnx.load(folder / file).graph.initializer:
            name = tensor.name.removesuffix(".half")
            if name.startswith(_ONNX_PREFIX[stage]):
                value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
                found[name.removeprefix(_ONNX_PREFIX[stage])] = value.float() if value.is_floating_point() else value
    return found
