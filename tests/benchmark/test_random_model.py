"""Models with random weights."""

from __future__ import annotations

import numpy as np
import pytest

import cosyvoice
from cosyvoice.benchmark.random_model import GEOMETRIES, geometry, random_weights, write_random_model
from cosyvoice.benchmark.workload import TEXT, UNGUARDED, Workload
from cosyvoice.config.bundle import read_bundle
from cosyvoice.config.model import ModelConfig
from cosyvoice.errors import ConfigError
from cosyvoice.export.quality import compare_stages


def test_the_large_one_has_the_released_geometry():
    config, released = geometry("0.5b"), ModelConfig()
    assert config.flow == released.flow and config.hift == released.hift
    assert config.llm.qwen == released.llm.qwen.model_copy(update={"vocab_size": 96})


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_geometry_needs_no_tokenizer_files(name):
    config = geometry(name)
    assert config.tokenizer == "phones" and config.end_of_prompt_id is None and config.name == f"random-{name}"


def test_an_unknown_geometry_is_refused():
    with pytest.raises(ConfigError, match=r"'7b'; choose one of 300m"):
        geometry("7b")


def test_weights_are_the_same_in_every_call():
    config = geometry("tiny")
    one, other = random_weights(config, "flow"), random_weights(config, "flow")
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    kernels = [name for name in one if one[name].ndim == 2]
    assert not np.array_equal(one[kernels[0]].ravel()[:50], one[kernels[1]].ravel()[:50])
    assert all(value.dtype == np.float16 and np.isfinite(value).all() for value in one.values())


@pytest.mark.parametrize("exact", [False, True])
def test_the_vocoder_is_written_as_bundles_have_it(exact):
    config = geometry("tiny")
    hift = config.hift.model_copy(update={"f0_in_float64": exact})
    weights = random_weights(config.model_copy(update={"hift": hift}), "hift")
    layers = {name.split(".")[0] for name in weights if "parametrizations" in name}
    assert layers == ({"f0_predictor"} if exact else set())


def test_a_directory_that_holds_the_model_is_left_alone(random_model):
    before = (random_model / "llm.safetensors").stat().st_mtime_ns
    assert write_random_model("tiny", random_model) == random_model
    assert (random_model / "llm.safetensors").stat().st_mtime_ns == before


def test_both_engines_say_the_same(random_model, native):
    assert read_bundle(random_model).precision == "fp32"
    reference = cosyvoice.load(random_model, backend="reference", threads=1)
    work = Workload(native.model.config, seconds=1.0)
    speech = work.scripted(native).say(TEXT, work.voice, seed=0, guard=UNGUARDED)
    assert np.isfinite(speech.samples).all() and np.abs(speech.samples).max() > 0
    distances = compare_stages(reference.model.stages, native.model.stages, native.model.config)
    assert distances["llm_kl"] < 1e-4 and distances["flow_mel_error"] < 1e-3 and distances["vocoder_snr"] > 40
