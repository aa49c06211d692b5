"""Whole runs, on models without networks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import cosyvoice.benchmark.harness as harness
import cosyvoice.benchmark.run as run
from cosyvoice.benchmark.contenders import Contender, Field
from cosyvoice.benchmark.run import Bench, Plan, parse_stages
from cosyvoice.errors import ConfigError


@dataclass(frozen=True)
class _Loaded(Contender):
    """A contender whose model is there already."""

    fake: object = None

    def load(self, threads):
        return self.fake.tts  # type: ignore[attr-defined]


@pytest.fixture
def bench(fake, tmp_path, monkeypatch):
    """Runs the fake model as the reference and as int8."""
    monkeypatch.setattr(run, "load_average", lambda: 0.1)
    memory = {"loaded": 1.0, "peak": 2.0, "chunks": [3.0, 3.0], "stream_peak": 4.0}
    monkeypatch.setattr(run, "measure_memory", lambda *_: memory)
    monkeypatch.setattr(run, "cold_start", lambda *_: setattr(fake.clock, "now", fake.clock.now + 3))
    contenders = (
        _Loaded("reference", "reference", tmp_path, fake=fake),
        _Loaded("int8", "native", tmp_path, fake=fake),
    )

    monkeypatch.setattr(harness.gc, "collect", lambda: None)  # slow where much is loaded

    def make(random_weights: bool = True, **settings: object):
        small = {"rounds": 2, "seconds": 2.0, "stream_seconds": 5.0, "requests": 2}
        plan = Plan(**{**small, **settings})  # type: ignore[arg-type]
        return Bench(Field(contenders), plan, "fake", random_weights, clock=fake.clock).run()

    return make


def test_everything_is_measured(bench):
    results = bench()
    assert set(results.measurements) == {"llm_prefill", "llm_decode", "flow", "vocoder", "whole", "first_audio"}
    assert all(m.ratios["int8"].median == 1.0 for m in results.measurements.values())
    assert all(len(m.seconds["int8"]) == 2 for m in results.measurements.values())
    assert results.streams.keys() == results.concurrency.keys() == {"int8"}
    assert results.memory.keys() == {"reference", "int8"}
    assert results.streams["int8"].growth == 1.0 and len(results.streams["int8"].rounds) == 2
    assert results.settings.baseline == "reference" and results.settings.precisions == ["int8"]


def test_only_the_stages_asked_for_are_measured(bench):
    results = bench(stages=("flow",))
    assert set(results.measurements) == {"flow"} and not results.memory and not results.streams


def test_a_busy_machine_is_mentioned(bench, monkeypatch):
    assert not any("busy" in note for note in bench(stages=("flow",)).notes)
    monkeypatch.setattr(run, "load_average", lambda: 1.7)
    assert "the machine was busy (load average 1.7)" in bench(stages=("flow",)).notes[0]


def test_random_weights_neither_speak_nor_have_quality(bench):
    notes = bench(stages=("cold", "quality")).notes
    assert any("no cold start" in note for note in notes) and any("no quality" in note for note in notes)


def test_a_speaking_model_starts_cold(bench, tmp_path: Path):
    (tmp_path / "voices").mkdir()
    cold = bench(stages=("cold",), random_weights=False).measurements["cold"]
    assert cold.seconds == {"reference": [3.0, 3.0], "int8": [3.0, 3.0]} and cold.ratios["int8"].median == 1.0


def test_real_weights_are_compared_with_the_reference(bench, fake):
    found = bench(stages=("quality",), random_weights=False).quality["int8"]
    assert found["llm_kl"] == 0.0 and found["flow_mel_error"] == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": ("llm", "soul")}, "no stage 'soul'; choose from llm"),
        ({"stages": ()}, "no stage"),
        ({"rounds": 0}, "rounds is 0; use at least 1"),
        ({"requests": 0}, "requests is 0"),
        ({"seconds": 0.5}, "seconds is 0.5"),
        ({"stream_seconds": 2.0}, "stream_seconds is 2; use at least 5"),
    ],
)
def test_settings_that_measure_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Plan(**settings)


def test_stages_run_in_their_own_order():
    assert parse_stages(" cold, llm,,llm") == ("llm", "cold")
    assert parse_stages("soul,llm") == ("llm", "soul")
