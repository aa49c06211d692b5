import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cosyvoice.errors import ConfigError
from cosyvoice.speech_tokenizer.model import SpeechTokenizer
from cosyvoice.training import loop, run
from cosyvoice.training.configuration import STAGES, load_settings
from cosyvoice.training.flow import FlowTask
from cosyvoice.training.llm import LLMTask
from cosyvoice.training.run import Source, run_stage, speaker_embeddings, speech_tokens, weights_fingerprint
from cosyvoice.training.speaker import SpeakerTask
from cosyvoice.training.tokenizer import TokenizerTask
from cosyvoice.training.vocoder import VocoderTask

STEPS = 3
FAST = (f"loop.steps={STEPS}", "loop.log_every=1", "loop.validate_every=100")
TASKS = {
    "tokenizer": TokenizerTask,
    "speaker": SpeakerTask,
    "llm": LLMTask,
    "flow": FlowTask,
    "vocoder": VocoderTask,
}
PICTURES = {
    "tokenizer": ["mel.png"],
    "speaker": [],
    "llm": ["attention.png"],
    "flow": ["mel.png"],
    "vocoder": ["mel.png"],
}


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr(loop, "plot_losses", lambda history, path: None)


@functools.cache
def settings_of(stage: str, *overrides: str):
    return load_settings("test", [stage], [*FAST, *overrides])[stage]


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_folder_holds_what_a_reader_needs(finished_runs, stage):
    folder = finished_runs / stage
    assert json.loads((folder / "settings.json").read_text()) == settings_of(stage).model_dump(mode="json")
    assert json.loads((folder / "scores.json").read_text())["step"] == STEPS
    for picture in PICTURES[stage]:
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    history = checkpoint(folder)["history"]
    losses = {key: len(values) for key, values in history.items() if key.startswith("train/")}
    assert losses and all(
        count == STEPS for key, count in losses.items() if "adversar" not in key and "discr" not in key
    )
    # The discriminators of the vocoder join in the second half of the run.
    assert all(0 < count < STEPS for key, count in losses.items() if "adversar" in key or "discr" in key)
    assert ("train/adversarial" in losses) == (stage == "vocoder")


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_stage_resumes_to_the_same_losses_and_weights(
    stage, finished_runs, corpus, tmp_path, monkeypatch
):
    for needed in run.UPSTREAM.get(stage, ()):
        shutil.copytree(finished_runs / needed, tmp_path / needed)
    step = TASKS[stage].step

    def interrupted(self, context):
        if context.step == 2:
            step(self, context)
            raise RuntimeError("killed")
        return step(self, context)

    monkeypatch.setattr(TASKS[stage], "step", interrupted)
    with pytest.raises(RuntimeError, match="killed"):
        run_stage(stage, settings_of(stage, "loop.save_minutes=0"), corpus, tmp_path)
    assert checkpoint(tmp_path / stage)["step"] == 2
    monkeypatch.setattr(TASKS[stage], "step", step)
    run_stage(stage, settings_of(stage), corpus, tmp_path)
    resumed, whole = checkpoint(tmp_path / stage), checkpoint(finished_runs / stage)
    assert resumed["history"] == whole["history"]
    for name, average in whole["average"].items():
        for key, value in average.items():
            assert torch.equal(resumed["average"][name][key], value), key


def test_a_run_leaves_the_random_generator_of_the_process_alone(runs, corpus):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    shutil.rmtree(runs / "speaker")
    run_stage("speaker", settings_of("speaker", "loop.steps=1"), corpus, runs)
    assert torch.equal(torch.rand(3), expected)


def test_a_finished_run_is_left_as_it_is(runs, corpus, monkeypatch):
    monkeypatch.setattr(SpeakerTask, "step", None)
    before = (runs / "speaker" / "checkpoint.pt").stat().st_mtime_ns
    assert run_stage("speaker", settings_of("speaker"), corpus, runs)["step"] == STEPS
    assert (runs / "speaker" / "checkpoint.pt").stat().st_mtime_ns == before


def test_a_finished_run_goes_on_with_more_steps(runs, corpus):
    run_stage("speaker", settings_of("speaker", "loop.steps=5", "loop.log_every=2"), corpus, runs)
    assert checkpoint(runs / "speaker")["step"] == 5


def test_other_settings_are_refused_and_named(runs, corpus):
    with pytest.raises(ConfigError) as error:
        run_stage("speaker", settings_of("speaker", "loop.rate=0.5", "model.channels=8"), corpus, runs)
    assert "loop.rate is 0.002 there, not 0.5" in str(error.value)
    assert "model.channels is 24 there, not 8" in str(error.value)
    assert "delete it" in str(error.value)


def test_other_settings_are_welcome_where_nothing_was_trained(runs, corpus):
    (runs / "speaker" / "checkpoint.pt").unlink()
    run_stage("speaker", settings_of("speaker", "batch=2", "loop.steps=1"), corpus, runs)
    assert json.loads((runs / "speaker" / "settings.json").read_text())["batch"] == 2


def test_another_corpus_is_refused(runs, corpus, tmp_path):
    smaller = tmp_path / "smaller"
    shutil.copytree(corpus, smaller)
    (smaller / "test.parquet").unlink()
    with pytest.raises(ConfigError, match="began with another corpus"):
        run_stage("speaker", settings_of("speaker", "loop.steps=9"), smaller, runs)


def retrain(runs: Path, stage: str, corpus: Path) -> None:
    shutil.rmtree(runs / stage)
    run_stage(stage, settings_of(stage, "loop.seed=8", "loop.steps=1"), corpus, runs)


def test_a_resumed_flow_refuses_another_speaker_encoder(runs, corpus):
    retrain(runs, "speaker", corpus)
    with pytest.raises(ConfigError, match="began with another speaker"):
        run_stage("flow", settings_of("flow", "loop.steps=9"), corpus, runs)


@pytest.mark.parametrize("stage", ["llm", "flow"])
def test_stages_without_their_tokenizer_say_what_to_train(stage, corpus, tmp_path):
    with pytest.raises(ConfigError, match="run that training first"):
        run_stage(stage, settings_of(stage), corpus, tmp_path)


@pytest.mark.parametrize(
    ("stage", "override", "message"),
    [
        ("llm", "model.speech_token_size=80", "set it to 81"),
        ("llm", "model.qwen.vocab_size=50", "the phones need 96"),
        ("llm", "guide_layer=2", "the last one is 1"),
        ("flow", "model.vocab_size=80", "set it to 81"),
        ("flow", "model.speaker_embedding_dim=64", "set it to 192"),
        ("vocoder", "segment_frames=4000", "lower it"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(stage, override, message, runs, corpus):
    shutil.rmtree(runs / stage)
    with pytest.raises(ConfigError, match=message):
        run_stage(stage, settings_of(stage, override), corpus, runs)
    assert not (runs / stage).exists()


def test_unknown_stages_and_foreign_settings_are_refused(corpus, tmp_path):
    with pytest.raises(ConfigError, match="choose one of tokenizer"):
        run_stage("lm", settings_of("llm"), corpus, tmp_path)
    with pytest.raises(ConfigError, match="FlowSettings"):
        run_stage("flow", settings_of("llm"), corpus, tmp_path)


def test_a_corpus_without_validation_sentences_is_refused(corpus, tmp_path):
    part = tmp_path / "part"
    part.mkdir()
    shutil.copy(corpus / "train.parquet", part)
    with pytest.raises(ConfigError, match="no utterances of the validation split"):
        run_stage("vocoder", settings_of("vocoder"), part, tmp_path / "runs")


def test_tokens_and_embeddings_are_computed_once_for_each_network(runs, corpus, monkeypatch):
    source = Source(corpus, runs, torch.device("cpu"))
    tokens, embeddings = speech_tokens(source), speaker_embeddings(source)
    calls = []
    original = SpeechTokenizer.encode
    monkeypatch.setattr(SpeechTokenizer, "encode", lambda *a: calls.append(1) or original(*a))
    again = speech_tokens(source)
    assert not calls
    before = weights_fingerprint(runs, "tokenizer")
    retrain(runs, "tokenizer", corpus)
    assert weights_fingerprint(runs, "tokenizer") != before
    calls.clear()
    speech_tokens(source)
    assert calls
    store = run.FeatureStore(corpus, ("mel",))
    for i, utterance in enumerate(store.utterances):
        assert len(tokens[utterance.id]) == len(store.get("mel", i)) // 2
        assert tokens[utterance.id].min() >= 0 and tokens[utterance.id].max() < 81
        assert np.array_equal(tokens[utterance.id], again[utterance.id])
        assert embeddings[utterance.id].shape == (1, 192)
