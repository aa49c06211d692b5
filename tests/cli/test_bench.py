"""`cosyvoice bench`."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import cosyvoice
from cosyvoice.benchmark import contenders
from cosyvoice.benchmark.random_model import write_random_model
from cosyvoice.benchmark.results import Results
from cosyvoice.cli.bench import bench
from cosyvoice.errors import ConfigError, ModelError, OutputError

app = typer.Typer()
app.command()(bench)
SMALL = ("--rounds", "1", "--seconds", "1", "--stream-seconds", "5", "--requests", "2", "--threads", "1")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models are kept between the tests."""
    return tmp_path_factory.mktemp("models")


def run(*arguments: object):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_random_model_gives_tables_json_and_plots(tmp_path, models):
    out = tmp_path / "out"
    stages = "llm,flow,streaming"
    precisions = ("--precision", "int8")
    ran = run("--random", "tiny", *precisions, "--stages", stages, *SMALL, "--out", out, "--models", models)
    assert ran.exit_code == 0
    assert {path.name for path in out.iterdir()} == {"bench.json", "bench.md", "ratios.png", "chunks.png"}
    results = Results.model_validate_json((out / "bench.json").read_text())
    assert results.settings.random_weights and results.settings.precisions == ["int8"]
    flow = results.measurements["flow"]
    assert set(flow.seconds) == {"reference", "int8"} and set(flow.ratios) == {"int8"}
    assert flow.ratios["int8"].median == pytest.approx(flow.seconds["reference"][0] / flow.seconds["int8"][0])
    assert "LLM decoding" in ran.stdout and "LLM decoding" in (out / "bench.md").read_text()
    assert "flow: round 1 of 1, int8" in ran.stderr and "round 1 of 1" not in ran.stdout


def test_without_pytorch_the_native_engine_is_measured_alone(tmp_path, models, monkeypatch):
    write_random_model("tiny", models / "random-tiny")
    monkeypatch.setattr(contenders, "torch_available", lambda: False)
    monkeypatch.setattr(cosyvoice, "DEFAULT_MODEL", models / "random-tiny")
    ran = run("--stages", "vocoder", *SMALL, "--out", tmp_path)
    assert ran.exit_code == 0 and "PyTorch is not installed" in ran.stdout
    results = Results.model_validate_json((tmp_path / "bench.json").read_text())
    assert results.settings.baseline == "fp32" and results.measurements["vocoder"].ratios == {}
    assert not (tmp_path / "ratios.png").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--random", "tiny", "--precision", "int3"), ConfigError, "no precision 'int3'"),
        (("--random", "7b"), ConfigError, "no random model '7b'"),
        (("--stages", "soul"), ConfigError, "no stage 'soul'"),
        (("--rounds", "0"), ConfigError, "rounds is 0"),
        (("--threads", "0"), ConfigError, "0 threads"),
        (("nowhere",), ModelError, "nowhere"),
        (("nowhere", "--random", "tiny"), ConfigError, "give one of them"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(arguments, error, message):
    with pytest.raises(error, match=message):
        run(*arguments)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        run("--random", "tiny", "--out", tmp_path / "file" / "out")
