"""Models with random weights, to measure a geometry without having its weights.

What a network costs depends on its shapes alone. The weights are drawn so that no activation grows without
bounds: variance one over the number of inputs of each output, norms that change nothing. The text vocabulary is
that of the phone frontend, much smaller than the released one: its table is only looked up, so it costs disk but
no time, and no tokenizer files are needed.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

import cosyvoice
from cosyvoice.benchmark.harness import Say
from cosyvoice.config.bundle import is_bundle
from cosyvoice.config.model import (
    CFMConfig,
    DiTConfig,
    FlowConfig,
    HiFTConfig,
    LLMConfig,
    ModelConfig,
    Qwen2Config,
)
from cosyvoice.config.released import read_model_config
from cosyvoice.errors import ConfigError
from cosyvoice.export.bundle import ENCODER_FILE, NETWORKS, TOKENIZER_FILE, write_graphs
from cosyvoice.export.vocoder_graph import fold_weight_norm
from cosyvoice.flow.flow import CausalMaskedDiffWithDiT
from cosyvoice.flow.rotary import RotaryEmbedding
from cosyvoice.hifigan.generator import CausalHiFTGenerator
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM
from cosyvoice.text.phones import VOCAB_SIZE

GEOMETRIES = ("0.5b", "0.5b-shallow", "mini", "tiny")
_GAIN = 0.7
"""Of every layer, so that residual branches add little."""
_UNUSED = "llm.model.lm_head.weight"
"""The output head of the text model, which speech never passes."""
_MAGNITUDE, _DIRECTION = "weight.original0", "weight.original1"


def geometry(name: str) -> ModelConfig:
    """The configuration of a random model.

    `0.5b` is Fun-CosyVoice3-0.5B, `0.5b-shallow` the same with two layers in language model and flow, `mini` the
    model that comes with the package, `tiny` the smallest that works. Raises `ConfigError` for other names.
    """
    qwen = Qwen2Config(vocab_size=VOCAB_SIZE)
    if name == "0.5b":
        config = ModelConfig(llm=LLMConfig(qwen=qwen))
    elif name == "0.5b-shallow":
        qwen = qwen.model_copy(update={"num_layers": 2})
        config = ModelConfig(llm=LLMConfig(qwen=qwen), flow=FlowConfig(dit=DiTConfig(depth=2)))
    elif name == "mini":
        config = read_model_config(cosyvoice.DEFAULT_MODEL)
    elif name == "tiny":
        config = _tiny()
    else:
        raise ConfigError(f"no random model {name!r}; choose one of {', '.join(GEOMETRIES)}")
    changes = {"name": f"random-{name}", "tokenizer": "phones", "end_of_prompt_id": None}
    return config.model_copy(update=changes)


def _tiny() -> ModelConfig:
    qwen = Qwen2Config(
        hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=32, vocab_size=VOCAB_SIZE
    )
    dit = DiTConfig(dim=32, depth=1, heads=2, dim_head=16)
    return ModelConfig(
        llm=LLMConfig(qwen=qwen, speech_token_size=64, speech_extra_tokens=4),
        flow=FlowConfig(vocab_size=64, pre_lookahead_channels=16, cfm=CFMConfig(n_timesteps=2), dit=dit),
        hift=HiFTConfig(base_channels=16, f0_channels=16, f0_in_float64=False),
    )


def write_random_model(name: str, directory: Path, say: Say | None = None) -> Path:
    """Write the random model `name` as a bundle in half precision, the same numbers in every call.

    The prompt encoders are empty files: a random model clones no voice. A directory that holds the model already
    is left as it is. Raises `ConfigError` for an unknown name.
    """
    config = geometry(name)
    if is_bundle(directory) and read_model_config(directory) == config:
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for file in (TOKENIZER_FILE, ENCODER_FILE):
        (directory / file).write_bytes(b"")
    for network in NETWORKS:
        if say is not None:
            say(f"drawing {network}")
        path = directory / f"{network}.safetensors"
        save_file(random_weights(config, network), path)
        # The library writes files that only their owner may read.
        path.chmod(0o644)
    if say is not None:
        say("building graphs")
    write_graphs(directory)
    return directory


def random_weights(config: ModelConfig, network: str) -> dict[str, NDArray[Any]]:
    """Weights of `llm`, `flow` or `hift` in half precision, the vocoder's in the form that a bundle has them in.

    Each tensor depends on its name and shape alone.
    """
    with torch.device("meta"):
        if network == "llm":
            module: torch.nn.Module = CosyVoice3LM(config.llm)
        elif network == "flow":
            module = CausalMaskedDiffWithDiT(config.flow)
        else:
            module = CausalHiFTGenerator(config.hift)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items() if name != _UNUSED}
    weights = {name: _draw(name, shape) for name, shape in shapes.items()}
    for name in shapes:
        if name.endswith("rotary_embed.inv_freq"):
            weights[name] = RotaryEmbedding(config.flow.dit.dim_head).inv_freq.numpy().astype(np.float16)
        elif name.endswith(_MAGNITUDE):
            # With the length of its direction as magnitude, a layer is the weight that was drawn.
            direction = weights[name.replace(_MAGNITUDE, _DIRECTION)].astype(np.float32)
            weights[name] = np.sqrt(np.square(direction).sum(axis=(1, 2), keepdims=True)).astype(np.float16)
    if network != "hift":
        return weights
    return fold_weight_norm(weights, keep=("f0_predictor.",) if config.hift.f0_in_float64 else ())


def _draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float16]:
    if len(shape) == 1:
        # Scales of norms and of activations are one, biases nothing.
        value = 1.0 if name.endswith(("weight", "alpha")) else 0.0
        return np.full(shape, value, np.float16)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    scale = np.float32(_GAIN / math.sqrt(math.prod(shape[1:])))
    weights = rng.standard_normal(shape, np.float32)
    weights *= scale
    return weights.astype(np.float16)
