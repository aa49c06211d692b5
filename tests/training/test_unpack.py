import shutil

import pytest
import torch

from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.training import loop
from cosyvoice.training.assemble import check_acquainted
from cosyvoice.training.configuration import STAGES, load_settings
from cosyvoice.training.loop import load_averaged
from cosyvoice.training.run import read_settings, run_stage
from cosyvoice.training.settings import FlowSettings
from cosyvoice.training.unpack import TRAINING_FILE, unpack

MODULES = {"tokenizer": "tokenizer", "speaker": "speaker_encoder", "llm": "llm", "flow": "flow", "vocoder": "vocoder"}


def effective(stage, weights):
    """What weights compute with: magnitude and direction of a norm stand for one matrix."""
    if stage != "vocoder":
        return weights
    plain = {}
    for name, value in weights.items():
        layer, norm, part = name.partition(".parametrizations.weight.original")
        if not norm:
            plain[name] = value
        elif part == "1":
            magnitude = weights[f"{layer}{norm}0"]
            plain[f"{layer}.weight"] = value * magnitude / value.norm(dim=(1, 2), keepdim=True)
    return plain


@pytest.fixture
def unpacked(assembled, tmp_path):
    unpack(assembled, tmp_path / "unpacked")
    return tmp_path / "unpacked"


@pytest.mark.slow
def test_unpacked_weights_are_those_of_the_model(assembled, finished_runs, unpacked):
    for stage in STAGES:
        found = effective(stage, load_averaged(unpacked / stage, MODULES[stage]))
        trained = effective(stage, load_averaged(finished_runs / stage, MODULES[stage]))
        assert found.keys() == trained.keys()
        for name, value in trained.items():
            assert torch.allclose(found[name].float(), value.float(), rtol=1e-3, atol=1e-5), f"{stage} {name}"


@pytest.mark.slow
def test_training_goes_on_from_an_unpacked_model(unpacked, corpus, monkeypatch):
    monkeypatch.setattr(loop, "plot_losses", lambda history, path: None)
    before = load_averaged(unpacked / "flow", "flow")
    settings = load_settings("test", ["flow"], ["loop.steps=1", "loop.rate=1e-9", "loop.decay=0"])["flow"]
    run_stage("flow", settings, corpus, unpacked)
    after = load_averaged(unpacked / "flow", "flow")
    assert all(torch.allclose(after[name], value, atol=1e-6) for name, value in before.items())
    assert read_settings(unpacked, "flow", FlowSettings).loop.rate == 1e-9
    assert (unpacked / "flow" / "checkpoint.pt").exists()
    check_acquainted(unpacked)


@pytest.mark.slow
def test_runs_are_not_written_over(assembled, unpacked):
    with pytest.raises(ConfigError, match="tokenizer exists already"):
        unpack(assembled, unpacked)


@pytest.mark.slow
def test_a_model_of_other_origin_is_refused(assembled, tmp_path):
    foreign = shutil.copytree(assembled, tmp_path / "foreign")
    (foreign / TRAINING_FILE).unlink()
    with pytest.raises(ModelError, match=r"holds no training\.safetensors"):
        unpack(foreign, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
