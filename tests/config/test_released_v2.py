from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cosyvoice.config.model import CausalMaskedDiffConfig, LLMConfig, MelConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.errors import ConfigError, ModelError

MODEL = Path(__file__).parents[1] / "data" / "parity" / "v2" / "model"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("*.safetensors", "*.pt", "*.onnx")
    return shutil.copytree(MODEL, tmp_path / "model", ignore=ignored)


def edit(model: Path, old: str, new: str) -> None:
    path = model / "cosyvoice2.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_small_model(model: Path) -> None:
    config = read_model_config(model)
    assert (config.name, config.generation, config.tokenizer) == ("cosyvoice2", "v2", "qwen2")
    # The mark belongs to instructions only; no prompt of this generation has to hold it.
    assert config.end_of_prompt_id is None
    assert isinstance(config.llm, LLMConfig) and config.llm.task_embedding
    assert (config.llm.speech_token_size, config.llm.speech_extra_tokens) == (150, 3)
    assert isinstance(config.flow, CausalMaskedDiffConfig)
    assert config.flow.encoder.static_chunk_size == 25 and config.flow.unet.static_chunk_size == 50
    assert config.flow.unet.causal and config.flow.unet.channels == (24,)
    assert config.flow.lookahead == 3 and config.flow.attention_chunk == 25
    assert (config.hift.causal, config.hift.source_phase, config.hift.joint_frames) == (False, "linear", 8)
    assert not config.hift.f0_in_float64
    assert config.mel == MelConfig(fmax=8000.0)


def test_released_dimensions_are_the_defaults(model: Path) -> None:
    for old, new in [
        ("input_size: 32\n    output_size: 80", "input_size: 512\n    output_size: 80"),
        ("vocab_size: 150", "vocab_size: 6561"),
        ("        output_size: 32", "        output_size: 512"),
        ("attention_heads: 2", "attention_heads: 8"),
        ("linear_units: 64", "linear_units: 2048"),
        ("num_blocks: 2", "num_blocks: 6"),
        ("        input_size: 32", "        input_size: 512"),
        ("channels: [24]", "channels: [256]"),
        ("attention_head_dim: 8", "attention_head_dim: 64"),
        ("n_blocks: 2\n            num_mid", "n_blocks: 4\n            num_mid"),
        ("num_mid_blocks: 2", "num_mid_blocks: 12"),
        ("num_heads: 2", "num_heads: 8"),
    ]:
        edit(model, old, new)
    assert read_model_config(model).flow == CausalMaskedDiffConfig()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Qwen2LM", "CosyVoice3LM", "CosyVoice3LM is not a part this version knows in a V2 model"),
        (
            "skip_special_tokens: True",
            "skip_special_tokens: True\n    version: cosyvoice3",
            "version must be 'cosyvoice2'",
        ),
        ("    decoder: !new", "    surprise: 1\n    decoder: !new", "unknown key 'flow.surprise'; known keys"),
        ("        static_chunk_size: !ref <chunk_size>\n", "        mystery: 1\n", "mystery"),
    ],
)
def test_what_is_unknown_is_refused_by_name(model: Path, old: str, new: str, message: str) -> None:
    edit(model, old, new)
    with pytest.raises(ConfigError, match=message):
        read_model_config(model)


def test_the_decoder_geometry_is_needed(model: Path) -> None:
    shutil.rmtree(model / "CosyVoice-BlankEN")
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        read_model_config(model)
