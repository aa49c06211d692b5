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
from numpy.typing import NDArray
from safetensors.numpy import save_file

import cosyvoice
from cosyvoice.benchmark.harness import Say
from cosyvoice.config.bundle import is_bundle
from cosyvoice.config.model import (
    CausalMaskedDiffConfig,
    CFMConfig,
    DiTConfig,
    FlowConfig,
    HiFTConfig,
    LLMConfig,
    MaskedDiffConfig,
    MelConfig,
    ModelConfig,
    Qwen2Config,
    TransformerLMConfig,
)
from cosyvoice.config.released import read_model_config
from cosyvoice.errors import ConfigError
from cosyvoice.export.bundle import ENCODER_FILE, NETWORKS, TOKENIZER_FILE, write_graphs
from cosyvoice.export.vocoder_graph import fold_weight_norm
from cosyvoice.flow.rotary import RotaryEmbedding
from cosyvoice.reference.networks import expected_shapes
from cosyvoice.text.phones import VOCAB_SIZE

GEOMETRIES = ("300m", "v2-0.5b", "0.5b", "0.5b-shallow", "mini", "tiny")
_GAIN = 0.7
"""Of every layer, so that residual branches add little."""
_UNUSED = "llm.model.lm_head.weight"
"""The output head of the text model, which speech never passes."""
_MAGNITUDE, _DIRECTION = "weight.original0", "weight.original1"


def geometry(name: str) -> ModelConfig:
    """The configuration of a random model.

    `300m` is CosyVoice-300M, `v2-0.5b` CosyVoice2-0.5B, `0.5b` Fun-CosyVoice3-0.5B, `0.5b-shallow` the same with two
    layers in language model and flow, `mini` the model that comes with the package, `tiny` the smallest that works.
    Raises `ConfigError` for other names.
    """
    qwen = Qwen2Config(vocab_size=VOCAB_SIZE)
    if name == "300m":
        config = _first_generation()
    elif name == "v2-0.5b":
        config = _second_generation(qwen)
    elif name == "0.5b":
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


def _first_generation() -> ModelConfig:
    mel = MelConfig(sample_rate=22050, n_fft=1024, hop_size=256, win_size=1024, fmax=8000.0)
    dilations = ((1, 3, 5), (1, 3, 5))
    hift = HiFTConfig(
        causal=False, sampling_rate=22050, upsample_rates=(8, 8), upsample_kernel_sizes=(16, 16), f0_in_float64=False,
        source_resblock_kernel_sizes=(7, 11), source_resblock_dilation_sizes=dilations, source_phase="sample",
        joint_frames=20,
    )  # fmt: skip
    llm = TransformerLMConfig(text_token_size=VOCAB_SIZE)
    return ModelConfig(generation="v1", llm=llm, flow=MaskedDiffConfig(), hift=hift, mel=mel)


def _second_generation(qwen: Qwen2Config) -> ModelConfig:
    hift = HiFTConfig(causal=False, source_phase="linear", f0_in_float64=False)
    llm = LLMConfig(qwen=qwen, speech_extra_tokens=3, task_embedding=True)
    return ModelConfig(generation="v2", llm=llm, flow=CausalMaskedDiffConfig(), hift=hift, mel=MelConfig(fmax=8000.0))


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
    shapes = {name: shape for name, shape in expected_shapes(config)[network].items() if name != _UNUSED}
    weights = {name: _draw(name, shape) for name, shape in shapes.items()}
    for name in shapes:
        if name.endswith("rotary_embed.inv_freq"):
            weights[name] = RotaryEmbedding(2 * shapes[name][0]).inv_freq.numpy().astype(np.float16)
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
