import logging
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cosyvoice.cli.corpus import corpus
from cosyvoice.cli.extras import needs_extra
from cosyvoice.cli.train import train
from cosyvoice.errors import ConfigError, MissingDependencyError
from cosyvoice.evaluation.sentences import default_sentences
from cosyvoice.training import assemble as assembly
from cosyvoice.training import run
from cosyvoice.training.configuration import STAGES
from cosyvoice.training.corpus import build


@pytest.fixture
def app():
    app = typer.Typer()
    app.command()(train)
    app.command()(corpus)
    return app


@pytest.fixture(autouse=True)
def logger_as_it_was():
    logger = logging.getLogger("cosyvoice")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers, logger.level = handlers, level


@pytest.fixture
def trained(monkeypatch):
    calls = []
    monkeypatch.setattr(run, "run_stage", lambda *arguments: calls.append(arguments))
    return calls


def test_train_runs_the_stage_with_its_overrides(app, trained):
    arguments = "train llm --corpus c --runs r --size test loop.steps=3 llm.loop.rate=1e-4"
    assert CliRunner().invoke(app, arguments.split()).exit_code == 0
    [(stage, settings, corpus_folder, runs)] = trained
    assert (stage, corpus_folder, runs) == ("llm", Path("c"), Path("r"))
    assert (settings.loop.steps, settings.loop.rate) == (3, 1e-4)


def test_train_all_runs_every_stage_in_order(app, trained):
    result = CliRunner().invoke(app, ["train", "all", "--corpus", "c", "--size", "test", "flow.loop.steps=2"])
    assert result.exit_code == 0
    assert [call[0] for call in trained] == list(STAGES)
    assert [call[1].loop.steps for call in trained] == [20, 20, 20, 2, 10]


def test_show_prints_settings_and_trains_nothing(app, trained):
    result = CliRunner().invoke(app, ["train", "flow", "--show", "model.dit.depth=3"])
    assert result.exit_code == 0
    assert '"depth": 3' in result.stdout
    assert not trained


def test_an_interrupted_training_says_how_to_go_on(app, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_stage", interrupt)
    result = CliRunner().invoke(app, ["train", "flow", "--corpus", "c"])
    assert result.exit_code == 130
    assert "same command again" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train llm", "give --corpus DIR"),
        ("train llm --corpus c loop.rte=3", "did you mean 'rate'"),
        ("train llm --corpus c --size huge", "choose one of mini, test"),
        ("train assemble --runs r", "give --out DIR"),
        ("train presets --out m", "give --out DIR and --corpus DIR"),
        ("train presets --out m --corpus c loop.rate=1", "take no settings"),
        ("train assemble --out o loop.rate=1", "takes no settings"),
        ("corpus c speakrs=3", "did you mean 'speakers'"),
    ],
)
def test_mistakes_are_typed_errors(app, trained, arguments, message):
    result = CliRunner().invoke(app, arguments.split())
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_assemble_prints_the_sizes(app, monkeypatch):
    calls = []

    def assemble(*arguments):
        calls.append(arguments)
        return {"flow.safetensors": 2048, "config.json": 1024}

    monkeypatch.setattr(assembly, "assemble", assemble)
    arguments = "train assemble --runs r --out o --name tiny --overwrite"
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 0
    assert calls == [(Path("r"), Path("o"), "tiny", True)]
    assert "flow.safetensors" in result.stdout and "3" in result.stdout.split("total")[1]


def test_corpus_builds_with_the_settings_of_its_size(app, monkeypatch):
    calls = []
    monkeypatch.setattr(build, "build_corpus", lambda *arguments: calls.append(arguments) or 1.5)
    arguments = "corpus c --size test --workers 3 speakers=9"
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 0
    [(folder, settings, workers, excluded)] = calls
    assert excluded == default_sentences()
    assert (folder, settings.speakers, settings.sentences, workers) == (Path("c"), 9, 300, 3)
    assert "1.50 hours" in result.stdout


@pytest.mark.parametrize(
    ("package", "module", "arguments"),
    [
        ("hydra", "cosyvoice.training.configuration", "train llm --corpus c"),
        ("torch", "cosyvoice.training.run", "train llm --corpus c"),
        ("pyworld", "cosyvoice.training.corpus.build", "corpus c"),
    ],
)
def test_missing_packages_name_the_command_that_installs_them(app, monkeypatch, package, module, arguments):
    monkeypatch.delitem(sys.modules, module)
    for name in [n for n in sys.modules if n.startswith("cosyvoice.training.corpus.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = CliRunner().invoke(app, arguments.split())
    assert isinstance(result.exception, MissingDependencyError)
    assert str(result.exception).endswith(f'needs the package {package}: pip install "cosyvoice[train]"')


def test_a_module_of_our_own_that_is_missing_is_a_bug_and_shown_as_such():
    with pytest.raises(ModuleNotFoundError), needs_extra("train", "training"):
        import cosyvoice.training.nothing  # noqa: F401
