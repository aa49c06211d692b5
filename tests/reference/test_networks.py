from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cosyvoice.checkpoint.belonging import UNUSED
from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.model import ModelConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.reference.networks import build_flow, build_hift, build_llm, expected_shapes

MODELS = Path(__file__).parents[1] / "data" / "parity"


@pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
def test_a_configuration_tells_names_and_shapes_of_its_weights(generation: str) -> None:
    directory = MODELS / generation / "model"
    config = read_model_config(directory)
    expected = expected_shapes(config)
    for name, build in (("llm", build_llm), ("flow", build_flow), ("hift", build_hift)):
        weights = load_state_dict(directory / f"{name}.pt")
        recorded = {key: tuple(value.shape) for key, value in weights.items() if key not in UNUSED}
        assert recorded == {key: shape for key, shape in expected[name].items() if key not in UNUSED}
        built = {key: tuple(value.shape) for key, value in build(config).state_dict().items()}
        assert built == expected[name]


def test_the_released_size_takes_no_memory_and_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    shapes = expected_shapes(ModelConfig())
    assert shapes["llm"]["llm.model.model.embed_tokens.weight"] == (151936, 896)
    assert torch.equal(before, torch.random.get_rng_state())
