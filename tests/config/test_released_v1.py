from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cosyvoice.config.model import HiFTConfig, MaskedDiffConfig, MelConfig, TransformerLMConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.errors import ConfigError

PARITY = Path(__file__).parents[1] / "data" / "parity"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copy(PARITY / "v1" / "model" / "cosyvoice.yaml", tmp_path)
    return tmp_path


def edit(model: Path, *changes: tuple[str, str]) -> None:
    path = model / "cosyvoice.yaml"
    text = path.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path.write_text(text)


def test_small_model(model: Path) -> None:
    config = read_model_config(model)
    dims = json.loads((PARITY / "manifest.json").read_text())["dims"]["v1"]
    assert (config.name, config.generation, config.tokenizer) == ("cosyvoice", "v1", "whisper")
    assert config.end_of_prompt_id is None and config.silent_tokens == ()
    assert isinstance(config.llm, TransformerLMConfig) and isinstance(config.flow, MaskedDiffConfig)
    assert config.llm.speech_token_size == config.flow.vocab_size == dims["speech"]
    assert config.llm.text_encoder.layer == "conformer" and config.llm.llm.layer == "transformer"
    assert (config.llm.llm.attention_heads, config.llm.llm.input_layer) == (4, "linear_legacy")
    assert config.flow.encoder.static_chunk_size == 0 and config.llm.llm.static_chunk_size == 1
    assert config.flow.unet.channels == (24, 24) and not config.flow.unet.causal
    assert config.hift.f0_channels == dims["cond"] and config.hift.upsample_rates == (8, 8)
    assert (config.hift.causal, config.hift.source_phase, config.hift.joint_frames) == (False, "sample", 20)
    assert config.mel == MelConfig(sample_rate=22050, n_fft=1024, hop_size=256, win_size=1024, fmax=8000.0)


@pytest.mark.parametrize(("name", "follows"), [("CosyVoice-300M-Instruct", True), ("CosyVoice-300M-SFT", False)])
def test_the_name_of_the_directory_tells_whether_it_follows_instructions(
    model: Path, tmp_path: Path, name: str, follows: bool
) -> None:
    """As in a hub's cache, any directory of the path may have the name."""
    directory = tmp_path / f"models--{name}" / "snapshots" / "0a1b"
    directory.mkdir(parents=True)
    shutil.copy(model / "cosyvoice.yaml", directory)
    assert read_model_config(directory).follows_instructions is follows


def test_released_dimensions_are_the_defaults(model: Path) -> None:
    edit(
        model,
        ("text_encoder_input_size: 4", "text_encoder_input_size: 512"),
        ("llm_input_size: 32", "llm_input_size: 1024"),
        ("llm_output_size: 32", "llm_output_size: 1024"),
        ("speech_token_size: 128", "speech_token_size: 4096"),
        ("output_size: 24", "output_size: 1024"),
        ("attention_heads: 2", "attention_heads: 16"),
        ("linear_units: 48", "linear_units: 4096"),
        ("num_blocks: 2", "num_blocks: 6"),
        ("attention_heads: 4", "attention_heads: 16"),
        ("linear_units: 64", "linear_units: 4096"),
        ("num_blocks: 2", "num_blocks: 14"),
        ("input_size: 32\n    output_size: 80", "input_size: 512\n    output_size: 80"),
        ("vocab_size: 128", "vocab_size: 4096"),
        ("output_size: 40", "output_size: 512"),
        ("attention_heads: 2", "attention_heads: 8"),
        ("linear_units: 64", "linear_units: 2048"),
        ("num_blocks: 2", "num_blocks: 6"),
        ("        input_size: 32", "        input_size: 512"),
        ("channels: [24, 24]", "channels: [256, 256]"),
        ("attention_head_dim: 8", "attention_head_dim: 64"),
        ("n_blocks: 2", "n_blocks: 4"),
        ("num_mid_blocks: 2", "num_mid_blocks: 12"),
        ("num_heads: 2", "num_heads: 8"),
        ("base_channels: 24", "base_channels: 512"),
        ("cond_channels: 16", "cond_channels: 512"),
    )
    config = read_model_config(model)
    assert config.llm == TransformerLMConfig()
    assert config.flow == MaskedDiffConfig()
    assert config.hift == HiFTConfig(
        causal=False, sampling_rate=22050, upsample_rates=(8, 8), upsample_kernel_sizes=(16, 16),
        source_resblock_kernel_sizes=(7, 11), source_resblock_dilation_sizes=((1, 3, 5), (1, 3, 5)),
        f0_in_float64=False, source_phase="sample", joint_frames=20,
    )  # fmt: skip


def test_a_vocoder_at_another_rate_has_the_other_source(model: Path) -> None:
    edit(model, ("sample_rate: 22050", "sample_rate: 24000"))
    assert read_model_config(model).hift.source_phase == "linear"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("TransformerLM", "Qwen2LM", "Qwen2LM is not a part this version knows in a V1 model"),
        ("num_languages: 100", "num_languages: 99", "get_tokenizer.num_languages must be 100"),
        ("        use_cnn_module: False\n", "", r"llm.text_encoder.use_cnn_module is missing"),
        ("macaron_style: False", "macaron_style: True", "llm.text_encoder.macaron_style must be False"),
        ("rel_pos_espnet", "rel_pos", "pos_enc_layer_type must be 'rel_pos_espnet'"),
        ("    llm_input_size: !ref <llm_input_size>", "    llm_input_size: 40", "llm.llm_input_size must be 32"),
        ("attention_heads: 2", "attention_heads: 5", "multiple of attention_heads"),
        ("act_fn: 'gelu'", "act_fn: 'snake'", "act_fn must be 'gelu'"),
        ("in_channels: 320", "in_channels: 240", "estimator.in_channels must be 320"),
        ("sampling_ratios: [1, 1, 1, 1]", "ratios: [1]", "sampling_ratios is missing"),
        ("text_encoder_input_size: !ref <text_encoder_input_size>", "text_encoder_input_size: 5", "must be 4"),
        ("flow: !new:cosyvoice.flow.flow.MaskedDiffWithXvec", "flow: 3\nunused:", "flow is a int, but a V1 model"),
    ],
)
def test_what_is_unknown_is_refused_by_name(model: Path, old: str, new: str, message: str) -> None:
    edit(model, (old, new))
    with pytest.raises(ConfigError, match=message):
        read_model_config(model)
