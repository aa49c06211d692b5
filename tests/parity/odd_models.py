"""Released directories of dimensions that no other model has: widths, heads, vocabularies, rates, mel bins, chunks.

Made of the small models of each generation: other numbers in their YAML file, and random weights of the shapes that
these ask for. Heads are 12 channels wide, mels have 64 bins, a token of V2 and V3 is three frames, V1 speaks at 16 kHz
through a U-Net of three levels.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from torch import Tensor

from cosyvoice.checkpoint.released import load_spk2info
from cosyvoice.config.released import read_model_config
from cosyvoice.flow.rotary import RotaryEmbedding
from cosyvoice.reference.networks import expected_shapes

PARITY = Path(__file__).parents[1] / "data" / "parity"
_ALL = {
    "num_mels: 80": 64, "output_size: 80": 64, "in_channels: 240": 192, "spk_emb_dim: 80": 64, "in_channels: 320": 256,
    "out_channels: 80": 64, "in_channels: 80": 64, "cond_channels: 16": 12, "base_channels: 24": 32,
    "inference_cfg_rate: 0.7": 0.4, "top_k: 25": 9, "win_size: 10": 7,
}  # fmt: skip
_CAUSAL = {
    "token_mel_ratio: 2": 3, "hop_size: 480": 320, "n_fft: 1920": 1280, "win_size: 1920": 1280, "chunk_size: 25": 20,
    "upsample_rates: [8, 5, 3]": [8, 5, 2], "upsample_kernel_sizes: [16, 11, 7]": [16, 11, 4],
    "pre_lookahead_len: 3": 2, "mix_ratio: [5, 15]": [4, 11], "llm_input_size: 32": 48, "llm_output_size: 32": 48,
}  # fmt: skip
_CHANGES: dict[str, dict[str, object]] = {
    "v1": _ALL | {
        "sample_rate: 22050": 16000, "n_fft: 1024": 800, "hop_size: 256": 200, "win_size: 1024": 800,
        "upsample_rates: [8, 8]": [10, 5], "upsample_kernel_sizes: [16, 16]": [20, 11],
        "speech_token_size: 128": 140, "vocab_size: 128": 140, "input_frame_rate: 50": 40,
        "sampling_ratios: [1, 1, 1, 1]": [1, 1, 1], " channels: 80": 64, "channels: [24, 24]": [24, 40, 32],
        "text_encoder_input_size: 4": 6, "llm_input_size: 32": 24, "llm_output_size: 32": 48, "output_size: 24": 30,
        "attention_heads: 2": 3, "num_blocks: 2": 3, "output_size: 40": 36, " input_size: 32": 28,
        "attention_head_dim: 8": 12, "n_blocks: 2": 1, "num_mid_blocks: 2": 3,
    },
    "v2": _ALL | _CAUSAL | {
        "speech_token_size: 150": 170, "vocab_size: 150": 170, " input_size: 32": 36, " output_size: 32": 36,
        "linear_units: 64": 52, "num_blocks: 2": 3, "attention_heads: 2": 3, "channels: [24]": [40],
        "attention_head_dim: 8": 12, "n_blocks: 2": 1, "num_mid_blocks: 2": 3, "num_heads: 2": 3,
    },
    "v3": _ALL | _CAUSAL | {
        "speech_token_size: 260": 310, "vocab_size: 260": 310, " input_size: 80": 64, " channels: 48": 40,
        " dim: 32": 80, "depth: 2": 3, " heads: 2": 3, "dim_head: 16": 24, "mel_dim: 80": 64, "mu_dim: 80": 64,
        "spk_dim: 80": 64, "conv_pre_look_right: 4": 3,
    },
}  # fmt: skip
_ABSENT = {"v3": {"in_channels: 320"}}
"""Of `_ALL`, what a generation has no such line of."""
_QWEN = {
    "hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1,
    "intermediate_size": 40, "vocab_size": 820,
}  # fmt: skip
_TIED = "llm.model.lm_head.weight", "llm.model.model.embed_tokens.weight"


def write_odd_model(generation: str, directory: Path, changes: dict[str, object] | None = None) -> Path:
    """A released directory of the odd dimensions, with further `changes` of its YAML file."""
    shutil.copytree(PARITY / generation / "model", directory)
    path = next(directory.glob("*.yaml"))
    text = path.read_text(encoding="utf-8")
    for line, value in (_CHANGES[generation] | (changes or {})).items():
        if line in _ABSENT.get(generation, ()):
            continue
        key = line.partition(":")[0]
        text, count = re.subn(rf"(?<!\w){re.escape(line)}(?!\d)", f"{key}: {value}", text)
        assert count, line
    path.write_text(text, encoding="utf-8")
    if generation != "v1":
        qwen = directory / "CosyVoice-BlankEN" / "config.json"
        qwen.write_text(json.dumps(json.loads(qwen.read_text()) | _QWEN))
    for seed, (network, shapes) in enumerate(expected_shapes(read_model_config(directory)).items()):
        generator = torch.Generator().manual_seed(seed)
        weights = {name: _drawn(name, shape, generator) for name, shape in shapes.items()}
        if _TIED[0] in weights:
            weights[_TIED[0]] = weights[_TIED[1]]
        torch.save(weights, directory / f"{network}.pt")
    # Of speakers with a reference only the embedding fits another vocabulary.
    speakers = load_spk2info(directory / "spk2info.pt")
    known = {name: {"embedding": each["embedding"]} for name, each in speakers.items() if "embedding" in each}
    torch.save(known, directory / "spk2info.pt")
    return directory


def _drawn(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith("rotary_embed.inv_freq"):
        return RotaryEmbedding(2 * shape[0]).inv_freq
    drawn = torch.randn(shape, generator=generator) * 0.12
    if name.endswith("alpha"):
        return drawn.abs() + 0.5
    return drawn + 1 if "norm" in name and name.endswith("weight") and len(shape) == 1 else drawn
