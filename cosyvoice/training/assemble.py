"""Puts the trained networks together as a bundle: one `config.json`, half-precision weights, graphs, ONNX encoders.

The directory is made beside its place and moved there as a whole. Networks that do not know each other are
refused: a language model that learned the tokens of another tokenizer would speak noise without a single
error.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from cosyvoice.checkpoint.directories import replacing
from cosyvoice.checkpoint.weights import write_weights
from cosyvoice.config.model import MelConfig, ModelConfig
from cosyvoice.errors import ConfigError, OutputError
from cosyvoice.export.bundle import write_graphs
from cosyvoice.export.prompt_encoders import export_aligner, export_speaker_encoder, export_speech_tokenizer
from cosyvoice.training.flow import load_flow
from cosyvoice.training.llm import load_llm
from cosyvoice.training.run import (
    UPSTREAM,
    codes,
    read_scores,
    read_settings,
    require_equal,
    weights_fingerprint,
)
from cosyvoice.training.settings import (
    FlowSettings,
    LLMSettings,
    SpeakerSettings,
    StageSettings,
    TokenizerSettings,
    VocoderSettings,
)
from cosyvoice.training.speaker import load_speaker_encoder
from cosyvoice.training.tokenizer import load_tokenizer
from cosyvoice.training.unpack import TRAINING_FILE, write_training_file
from cosyvoice.training.vocoder import load_vocoder

WRITTEN = (
    "config.json",
    "llm.safetensors",
    "flow.safetensors",
    "hift.safetensors",
    "speech_tokenizer.onnx",
    "aligner.onnx",
    "campplus.onnx",
    "llm.onnx",
    "flow.onnx",
    "flow_half_cache.onnx",
    "flow_plain.onnx",
    "flow_plain_half_cache.onnx",
    "vocoder.onnx",
    "bundle.json",
    TRAINING_FILE,
)
"""What `assemble` writes; anything else in a model directory (voices, a model card) belongs to its owner."""


def assemble(runs: Path, out: Path, name: str, overwrite: bool = False) -> dict[str, int]:
    """Make the model directory `out` from the last checkpoints in `runs`; returns the size of every file in bytes.

    With `overwrite`, a model in `out` is replaced and whatever else the folder holds is kept; without, `out`
    has to be empty or absent. Voices that were made with another tokenizer have to be made anew.

    Raises:
        ConfigError: a training is missing, or the networks do not fit each other.
        OutputError: `out` holds files, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not overwrite)):
        raise OutputError(f"{out} is not an empty directory: choose another one, or overwrite the model in it")
    config = model_config(runs, name)
    check_acquainted(runs)
    with replacing(out, keep=lambda item: item.name not in WRITTEN) as fresh:
        _write_model(runs, fresh, config)
    return {file: (out / file).stat().st_size for file in WRITTEN}


def model_config(runs: Path, name: str) -> ModelConfig:
    """The configuration of the whole model. Raises `ConfigError` for networks that do not fit each other."""
    tokenizer = read_settings(runs, "tokenizer", TokenizerSettings)
    speaker = read_settings(runs, "speaker", SpeakerSettings)
    llm = read_settings(runs, "llm", LLMSettings).model
    flow = read_settings(runs, "flow", FlowSettings).model
    hift = read_settings(runs, "vocoder", VocoderSettings).model
    mel = MelConfig()
    size, width = "the number of the tokenizer's codes", "the speaker encoder's embedding_dim"
    require_equal("llm.model.speech_token_size", llm.speech_token_size, size, codes(tokenizer))
    require_equal("flow.model.vocab_size", flow.vocab_size, size, codes(tokenizer))
    require_equal("flow.model.speaker_embedding_dim", flow.speaker_embedding_dim, width, speaker.model.embedding_dim)
    for key, value in (("flow.model.mel_dim", flow.mel_dim), ("vocoder.model.in_channels", hift.in_channels)):
        require_equal(key, value, "the number of mel bins", mel.n_mels)
    return ModelConfig(
        name=name,
        generation="v3",
        tokenizer="phones",
        llm=llm,
        flow=flow,
        hift=hift,
        mel=mel,
        end_of_prompt_id=None,
    )


def check_acquainted(runs: Path) -> None:
    """Raises `ConfigError` where a network learned from another tokenizer or speaker encoder than that in `runs`.

    Runs without a record of their inputs pass.
    """
    for stage, needed in UPSTREAM.items():
        path = runs / stage / "inputs.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        for source in needed:
            if source in known and known[source] != weights_fingerprint(runs, source):
                raise ConfigError(
                    f"{runs / stage} learned from another {source} than the one in {runs / source}: train {stage} again"
                )


def _write_model(runs: Path, folder: Path, config: ModelConfig) -> None:
    def write(file: str, stage: str, network: nn.Module, settings: StageSettings) -> None:
        step = str(int(read_scores(runs / stage).get("step", 0)))
        metadata = {"stage": stage, "step": step, "settings": settings.model_dump_json()}
        write_weights(folder / file, network.state_dict(), metadata)

    llm_settings = read_settings(runs, "llm", LLMSettings)
    flow_settings = read_settings(runs, "flow", FlowSettings)
    vocoder_settings = read_settings(runs, "vocoder", VocoderSettings)
    tokenizer_settings = read_settings(runs, "tokenizer", TokenizerSettings)
    speaker_settings = read_settings(runs, "speaker", SpeakerSettings)
    tokenizer = load_tokenizer(runs / "tokenizer", tokenizer_settings)
    speaker = load_speaker_encoder(runs / "speaker", speaker_settings)
    (folder / "config.json").write_text(config.model_dump_json(indent=1) + "\n")
    # The tied output head of the text model stays in the file: readers load strictly.
    write("llm.safetensors", "llm", load_llm(runs / "llm", llm_settings), llm_settings)
    write("flow.safetensors", "flow", load_flow(runs / "flow", flow_settings), flow_settings)
    vocoder = load_vocoder(runs / "vocoder", vocoder_settings)
    vocoder.remove_weight_norm()
    write("hift.safetensors", "vocoder", vocoder, vocoder_settings)
    export_speech_tokenizer(tokenizer, folder / "speech_tokenizer.onnx")
    export_aligner(tokenizer, folder / "aligner.onnx")
    export_speaker_encoder(speaker, folder / "campplus.onnx")
    write_training_file(
        folder,
        {"tokenizer": tokenizer, "speaker": speaker},
        {"tokenizer": tokenizer_settings, "speaker": speaker_settings},
    )
    write_graphs(folder)
