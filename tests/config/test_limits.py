from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cosyvoice.config.limits import check_limits
from cosyvoice.config.model import ModelConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.errors import ConfigError

PARITY = Path(__file__).parents[1] / "data" / "parity"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"llm": {"qwen": {"hidden_size": 10**12}}}, "llm.qwen.hidden_size"),
        ({"llm": {"qwen": {"num_layers": 10**6}}}, "llm.qwen.num_layers"),
        ({"llm": {"qwen": {"num_heads": 0}}}, "llm.qwen.num_heads"),
        ({"flow": {"kind": "masked_diff", "unet": {"num_mid_blocks": 9999}}}, "flow.unet.num_mid_blocks"),
        ({"flow": {"kind": "masked_diff", "unet": {"channels": [256, -4]}}}, "flow.unet.channels"),
        ({"hift": {"upsample_rates": [8] * 1000}}, "hift.upsample_rates"),
        ({"mel": {"hop_size": 0}}, "mel.hop_size"),
        ({"flow": {"dit": {"num_decoding_left_chunks": -2}}}, "flow.dit.num_decoding_left_chunks"),
    ],
)
def test_sizes_out_of_bounds_are_refused(changes: dict[str, Any], field: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(changes))
    with pytest.raises(ConfigError, match=field):
        read_model_config(tmp_path)


def test_released_sizes_are_within_bounds() -> None:
    config = ModelConfig(silent_tokens=tuple(range(500)))
    assert check_limits(config, "here") is config


def test_a_released_directory_is_checked_too(tmp_path: Path) -> None:
    shutil.copytree(PARITY / "v1" / "model", tmp_path / "m", ignore=shutil.ignore_patterns("*.pt", "*.onnx"))
    path = tmp_path / "m" / "cosyvoice.yaml"
    path.write_text(path.read_text().replace("speech_token_size: 128", "speech_token_size: 99999999999"))
    with pytest.raises(ConfigError, match=r"cosyvoice\.yaml: llm\.speech_token_size is 99999999999, it must be"):
        read_model_config(tmp_path / "m")
