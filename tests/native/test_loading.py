from __future__ import annotations

from pathlib import Path

import pytest

from cosyvoice.config.model import DiTConfig, FlowConfig
from cosyvoice.errors import ConfigError, ModelError
from cosyvoice.native.loading import CONTEXT_BYTES, flow_memory, load_native_model
from cosyvoice.native.solver import FlowOptions

SMALL = FlowConfig(dit=DiTConfig(dim=256, depth=5, heads=4))
RELEASED = FlowConfig()


def test_the_cache_of_a_small_model_is_exact_for_any_piece() -> None:
    cache_type, context = flow_memory(SMALL, FlowOptions(), CONTEXT_BYTES)
    assert cache_type == "float32"
    assert context is not None and context % 50 == 0 and context >= 30 * 50


def test_the_cache_of_the_released_geometry_is_bounded() -> None:
    cache_type, context = flow_memory(RELEASED, FlowOptions(), CONTEXT_BYTES)
    assert (cache_type, context) == ("float16", 350)
    # 22 layers, keys and values of 1024 channels, 10 steps with and without guidance, two bytes each.
    assert 350 * 22 * 2 * 1024 * 20 * 2 <= CONTEXT_BYTES < 400 * 22 * 2 * 1024 * 20 * 2


def test_fewer_steps_leave_room_for_more_context() -> None:
    assert flow_memory(RELEASED, FlowOptions(n_timesteps=5), CONTEXT_BYTES)[1] == 700
    assert flow_memory(RELEASED, FlowOptions(), None) == ("float16", None)


def test_too_little_memory_for_a_chunk() -> None:
    with pytest.raises(ConfigError, match="takes 90112000"):
        flow_memory(RELEASED, FlowOptions(), 1_000_000)


def test_a_directory_that_was_not_converted(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cosyvoice convert"):
        load_native_model(tmp_path)
