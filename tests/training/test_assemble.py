import json
import shutil

import numpy as np
import pytest
import torch

from cosyvoice.checkpoint.weights import read_weights
from cosyvoice.config.released import read_model_config
from cosyvoice.engine.aligner import PhoneRecogniser
from cosyvoice.engine.prompt_encoders import OnnxSpeakerEncoder, OnnxSpeechTokenizer
from cosyvoice.errors import ConfigError, OutputError
from cosyvoice.reference.loading import load_reference_model
from cosyvoice.training import assemble as assembly
from cosyvoice.training.assemble import WRITTEN, assemble
from cosyvoice.training.loop import load_averaged
from cosyvoice.training.unpack import TRAINING_FILE


@pytest.fixture
def quick_export(monkeypatch):
    """Exporting takes seconds: only the test that loads the model needs real ONNX files."""
    for name in ("export_speech_tokenizer", "export_aligner", "export_speaker_encoder"):
        monkeypatch.setattr(assembly, name, lambda model, path: path.write_bytes(b"onnx"))
    monkeypatch.setattr(
        assembly, "write_training_file", lambda folder, *_: (folder / TRAINING_FILE).write_bytes(b"heads")
    )


def test_an_assembled_model_loads_as_a_model(finished_runs, tmp_path, quick_export):
    out = tmp_path / "models" / "tiny"
    sizes = assemble(finished_runs, out, "tiny")
    assert sorted(path.name for path in out.iterdir()) == sorted(WRITTEN) == sorted(sizes)
    assert sizes == {path.name: path.stat().st_size for path in out.iterdir()}
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]
    model = load_reference_model(out)
    assert model.config.name == "tiny"
    config = read_model_config(out)
    assert (config.generation, config.tokenizer, config.end_of_prompt_id) == ("v3", "phones", None)
    assert (config.llm.speech_token_size, config.flow.vocab_size, config.hift.base_channels) == (81, 81, 16)


@pytest.mark.slow
def test_an_assembled_model_encodes_prompts(assembled):
    samples = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    tokens = OnnxSpeechTokenizer(assembled / "speech_tokenizer.onnx")(samples)
    assert len(tokens) == pytest.approx(25, abs=1) and tokens.max() < 81
    log_probs = PhoneRecogniser(assembled)(samples)
    assert log_probs.shape == (2 * len(tokens), 40)
    assert OnnxSpeakerEncoder(assembled / "campplus.onnx")(samples).shape == (192,)


def test_weights_are_the_averaged_ones_in_half_precision(finished_runs, tmp_path, quick_export):
    out = tmp_path / "tiny"
    assemble(finished_runs, out, "tiny")
    weights, metadata = read_weights(out / "flow.safetensors", dtype=None)
    averaged = load_averaged(finished_runs / "flow", "flow")
    assert weights.keys() == averaged.keys()
    for key, value in weights.items():
        assert value.dtype == (torch.float16 if averaged[key].is_floating_point() else averaged[key].dtype)
        assert torch.equal(value, averaged[key].to(value.dtype))
    assert (metadata["stage"], metadata["step"]) == ("flow", "3")


def test_a_full_folder_is_refused_unless_it_may_be_overwritten(finished_runs, tmp_path, quick_export):
    out = tmp_path / "tiny"
    assemble(finished_runs, out, "first")
    (out / "voices").mkdir()
    (out / "voices" / "ann.safetensors").write_bytes(b"voice")
    (out / "README.md").write_text("card")
    with pytest.raises(OutputError, match="not an empty directory"):
        assemble(finished_runs, out, "second")
    assert read_model_config(out).name == "first"
    assemble(finished_runs, out, "second", overwrite=True)
    assert read_model_config(out).name == "second"
    assert (out / "voices" / "ann.safetensors").read_bytes() == b"voice"
    assert (out / "README.md").read_text() == "card"


def test_a_failure_leaves_no_half_model(finished_runs, tmp_path, quick_export, monkeypatch):
    def fail(model, path):
        raise OutputError("disk full")

    out = tmp_path / "tiny"
    assemble(finished_runs, out, "first")
    monkeypatch.setattr(assembly, "export_speaker_encoder", fail)
    with pytest.raises(OutputError):
        assemble(finished_runs, out, "second", overwrite=True)
    with pytest.raises(OutputError):
        assemble(finished_runs, tmp_path / "other", "second")
    assert read_model_config(out).name == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_networks_that_do_not_know_each_other_are_refused(runs, tmp_path, quick_export):
    path = runs / "llm" / "inputs.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer": "another"}))
    with pytest.raises(ConfigError, match="train llm again"):
        assemble(runs, tmp_path / "tiny", "tiny")
    path.unlink()
    assemble(runs, tmp_path / "tiny", "tiny")


def test_networks_of_other_sizes_are_refused(runs, tmp_path):
    path = runs / "flow" / "settings.json"
    settings = json.loads(path.read_text())
    settings["model"]["vocab_size"] = 80
    path.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"flow\.model\.vocab_size is 80"):
        assemble(runs, tmp_path / "tiny", "tiny")


def test_a_missing_training_is_named(runs, tmp_path):
    shutil.rmtree(runs / "vocoder")
    with pytest.raises(ConfigError, match="cosyvoice train vocoder"):
        assemble(runs, tmp_path / "tiny", "tiny")
