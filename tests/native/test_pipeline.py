"""The whole native pipeline through the public interface, beside the reference on the same weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import cosyvoice
from cosyvoice import TTS, ConfigError, FlowOptions, ModelError, StreamingConfig, Voice
from cosyvoice.engine.guard import Guard
from cosyvoice.export.bundle import convert

TEXT = "One two three. Four five six seven."
NO_RETRIES = Guard(retries=0)


@pytest.fixture(scope="module")
def bundle(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    convert(tiny_model_dir, out, measure=False)
    return out


@pytest.fixture(scope="module")
def native(bundle: Path) -> TTS:
    return cosyvoice.load(bundle, threads=1)


@pytest.fixture(scope="module")
def voice(native: TTS) -> Voice:
    return native.voice()


def test_both_engines_say_the_same(native: TTS, bundle: Path, voice: Voice) -> None:
    reference = cosyvoice.load(bundle, backend="reference", threads=1)
    assert native.model.stages.description["backend"] == "native"
    assert reference.model.stages.description["backend"] == "reference"
    for streaming in (None, StreamingConfig()):
        said = [tts.say(TEXT, voice, seed=3, streaming=streaming, guard=NO_RETRIES) for tts in (native, reference)]
        assert [p.tokens for p in said[0].report.pieces] == [p.tokens for p in said[1].report.pieces]
        np.testing.assert_allclose(said[0].samples, said[1].samples, atol=1e-3)


def test_chunk_sizes_change_nothing(native: TTS, voice: Voice) -> None:
    unit = native.model.attention_chunk
    schedules = [StreamingConfig(hop=unit, max_hop=unit), StreamingConfig(hop=unit * 2, growth=3, max_hop=unit * 6)]
    said = [
        np.concatenate([c.samples for c in native.stream(TEXT, voice, seed=5, streaming=s, guard=NO_RETRIES)])
        for s in schedules
    ]
    np.testing.assert_allclose(said[0], said[1], atol=1e-4)
    again = native.say(TEXT, voice, seed=5, streaming=schedules[0], guard=NO_RETRIES)
    np.testing.assert_array_equal(said[0], again.samples)


def test_requests_at_the_same_time_equal_themselves_alone(native: TTS, voice: Voice) -> None:
    def speak(seed: int) -> np.ndarray:
        return native.say(TEXT, voice, seed=seed, streaming=StreamingConfig(), guard=NO_RETRIES).samples

    alone = [speak(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(speak, range(8)))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_an_abandoned_stream_stops_the_language_model(native: TTS, voice: Voice) -> None:
    stream = native.stream(TEXT, voice, seed=1)
    next(stream)
    stream.close()
    assert native.say("One.", voice, seed=1).duration > 0


def test_options_of_the_flow_reach_it(bundle: Path, voice: Voice) -> None:
    few = cosyvoice.load(bundle, threads=1, flow=FlowOptions(n_timesteps=2))
    many = cosyvoice.load(bundle, threads=1, flow=FlowOptions(n_timesteps=4, solver="rk4"))
    said = [tts.say("One.", voice, seed=1, guard=NO_RETRIES).samples for tts in (few, many)]
    assert said[0].shape == said[1].shape
    assert np.abs(said[0] - said[1]).max() > 1e-4


def test_requests_that_do_not_fit_the_engine(bundle: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="no backend"):
        cosyvoice.load(bundle, backend="fast")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="runs on the CPU"):
        cosyvoice.load(bundle, device="cuda")
    with pytest.raises(ConfigError, match="belong to the native engine"):
        cosyvoice.load(bundle, backend="reference", flow=FlowOptions())
    with pytest.raises(ModelError, match="cosyvoice convert"):
        cosyvoice.load(tiny_model_dir, backend="native")
