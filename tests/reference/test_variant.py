"""Weights of the language model that lie beside those of the release: `llm.rl.pt`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import cosyvoice
from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.checkpoint.weights import read_weights
from cosyvoice.cli.cosyvoice import AutoModel
from cosyvoice.cli.main import app
from cosyvoice.errors import ConfigError, ModelError

KEY = "llm_decoder.weight"


@pytest.fixture
def model(tmp_path: Path, released_model_dir: Path) -> Path:
    directory = tmp_path / "model"
    shutil.copytree(released_model_dir, directory)
    weights = load_state_dict(directory / "llm.pt")
    torch.save({**weights, KEY: weights[KEY] * 2}, directory / "llm.rl.pt")
    return directory


def test_the_reference_takes_the_variant(model: Path) -> None:
    plain, tuned = (cosyvoice.load(model, variant=variant).model.stages.llm.model for variant in ("", "rl"))
    assert torch.equal(tuned.state_dict()[KEY], 2 * plain.state_dict()[KEY])
    skin = AutoModel(model, variant="rl").tts.model.stages.llm.model
    assert torch.equal(skin.state_dict()[KEY], tuned.state_dict()[KEY])


@pytest.mark.parametrize(
    ("to", "name"), [("safetensors", "llm.safetensors"), ("pt", "llm.pt"), ("bundle", "bundle.json")]
)
def test_a_conversion_takes_the_variant(model: Path, tmp_path: Path, to: str, name: str) -> None:
    out = tmp_path / "out"
    arguments = ["convert", str(model), str(out), "--variant", "rl", "--to", to]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (out / name).is_file()
    if to == "bundle":
        assert "llm.rl.pt" in (out / name).read_text()
        with pytest.raises(ConfigError, match="--variant rl"):
            cosyvoice.load(out, variant="rl")
        return
    weights = load_state_dict(out / name) if to == "pt" else read_weights(out / name)[0]
    torch.testing.assert_close(weights[KEY], load_state_dict(model / "llm.rl.pt")[KEY])


def test_a_variant_that_is_not_there(model: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"llm\.x\.pt is missing; there are llm\.pt, llm\.rl\.pt"):
        cosyvoice.load(model, variant="x")
    with pytest.raises(ConfigError, match="one set of weights"):
        cosyvoice.load(tiny_model_dir, variant="rl")
