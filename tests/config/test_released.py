from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cosyvoice.config.model import DiTConfig, FlowConfig, HiFTConfig, MelConfig, ModelConfig
from cosyvoice.config.released import detect_generation, read_model_config
from cosyvoice.errors import ConfigError, ModelError

PARITY = Path(__file__).parents[1] / "data" / "parity"
MODEL = PARITY / "v3" / "model"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the configuration files of the small model."""
    shutil.copy(MODEL / "cosyvoice3.yaml", tmp_path)
    shutil.copytree(
        MODEL / "CosyVoice-BlankEN",
        tmp_path / "CosyVoice-BlankEN",
        ignore=shutil.ignore_patterns("*.safetensors"),
    )
    return tmp_path


def edit(model: Path, old: str, new: str) -> None:
    path = model / "cosyvoice3.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_small_model(model: Path) -> None:
    config = read_model_config(model)
    dims = json.loads((PARITY / "manifest.json").read_text())
    v3 = dims["dims"]["v3"]
    assert config.end_of_prompt_id == dims["eop_id_v3"]
    assert (config.llm.qwen.hidden_size, config.llm.qwen.num_layers) == (v3["qh"], v3["qlayers"])
    assert (config.llm.qwen.num_heads, config.llm.qwen.num_kv_heads) == (v3["qheads"], v3["qkv"])
    assert (config.llm.qwen.intermediate_size, config.llm.qwen.vocab_size) == (v3["qint"], v3["qvocab"])
    assert config.llm.speech_token_size == config.flow.vocab_size == v3["speech"]
    assert list(config.llm.mix_ratio) == v3["mix"]
    assert config.flow.pre_lookahead_channels == v3["pl_ch"]
    assert (config.flow.dit.dim, config.flow.dit.depth, config.flow.dit.heads) == (
        v3["dim"],
        v3["depth"],
        v3["heads"],
    )
    assert config.flow.dit.static_chunk_size == 50
    assert config.flow.dit.conv_pos_groups == 16
    assert config.flow.cfm.sigma_min == 1e-6
    assert (config.hift.base_channels, config.hift.f0_channels) == (v3["base"], v3["cond"])
    assert config.mel == MelConfig()


def test_released_dimensions_are_the_defaults(model: Path) -> None:
    for old, new in [
        ("vocab_size: 260", "vocab_size: 6561"),
        ("channels: 48", "channels: 1024"),
        ("dim: 32", "dim: 1024"),
        ("depth: 2", "depth: 22"),
        ("heads: 2", "heads: 16"),
        ("dim_head: 16", "dim_head: 64"),
        ("base_channels: 24", "base_channels: 512"),
        ("cond_channels: 16", "cond_channels: 512"),
    ]:
        edit(model, old, new)
    config = read_model_config(model)
    assert config.flow == FlowConfig()
    assert config.flow.dit == DiTConfig()
    assert config.hift == HiFTConfig()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ras_sampling", "nucleus_sampling", "nucleus_sampling is not a part this version knows"),
        ("!new:cosyvoice.flow.DiT.dit.DiT", "!new:evil.Estimator", "evil.Estimator is not a part"),
        ("cosyvoice.llm.llm.CosyVoice3LM", "cosyvoice.llm.llm.Qwen2Encoder", "llm is !new:"),
        ("!apply:random.seed [1986]", "!apply:os.system [touch hacked]", "!apply:os.system is not a part"),
        ("!apply:torch.manual_seed [1986]", "!new:subprocess.Popen [touch, hacked]", "!new:subprocess.Popen is not"),
        ("top_k: 25", "top_kk: 25", "did you mean 'top_k'"),
        ("top_p: 0.8", "top_p: 1.8", "top_p"),
        ("n_spks: 1", "n_spks: 2", "flow.decoder.n_spks must be 1"),
        (
            "center: False\ncompute_fbank",
            "center: True\ncompute_fbank",
            "feat_extractor.center must be False",
        ),
        ("llm_input_size: 32", "llm_input_size: 64", "llm.llm_input_size must be 32"),
        ("hift: !new", "vocoder: !new", "'hift'|<hift>"),
        ("            reg_loss_type: 'l1'", "            surprise: 1", "surprise"),
        ("        hop_len: 4", "        hop_len: 4\n        extra: 1", "unknown key 'extra'"),
    ],
)
def test_what_is_unknown_is_refused_by_name(model: Path, old: str, new: str, message: str) -> None:
    edit(model, old, new)
    with pytest.raises(ConfigError, match=message):
        read_model_config(model)


def test_two_generations_in_one_directory_are_refused(model: Path) -> None:
    assert detect_generation(model) == "v3"
    (model / "cosyvoice2.yaml").write_text("a: 1\n")
    for function in (detect_generation, read_model_config):
        with pytest.raises(ModelError, match=r"cosyvoice2\.yaml and cosyvoice3\.yaml; keep only"):
            function(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("hidden_size"), "lacks hidden_size"),
        (lambda c: c.update(model_type="llama"), "only 'qwen2'"),
        (lambda c: c.update(rope_scaling={"type": "yarn"}), "rope_scaling is set"),
    ],
)
def test_unsuitable_decoders_are_refused(model: Path, change: Callable[[dict], object], message: str) -> None:
    path = model / "CosyVoice-BlankEN" / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        read_model_config(model)


def test_missing_things(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        read_model_config(model / "absent")
    (model / "CosyVoice-BlankEN" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        read_model_config(model)
    (model / "cosyvoice3.yaml").unlink()
    with pytest.raises(ModelError, match="is no model directory"):
        read_model_config(model)


def test_own_directory_round_trip(tmp_path: Path) -> None:
    config = ModelConfig(name="mini", tokenizer="phones", end_of_prompt_id=None)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    assert read_model_config(tmp_path) == config
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        read_model_config(tmp_path)
