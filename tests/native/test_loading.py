from __future__ import annotations

from pathlib import Path

import pytest

from cosyvoice.config.model import DiTConfig, FlowConfig
from cosyvoice.errors import ModelError
from cosyvoice.native.loading import CONTEXT_BYTES, CONTEXT_FRAMES, flow_memory, load_native_model
from cosyvoice.native.solver import FlowOptions

SMALL = FlowConfig(dit=DiTConfig(dim=256, depth=5, heads=4))
RELEASED = FlowConfig()


def test_the_cache_of_a_small_model_holds_ten_seconds() -> None:
    assert flow_memory(SMALL, FlowOptions(), CONTEXT_FRAMES) == ("float32", 500)
    assert flow_memory(SMALL, FlowOptions(), 1049) == ("float32", 1000)


def test_the_cache_of_the_released_geometry_is_bounded_by_memory() -> None:
    assert flow_memory(RELEASED, FlowOptions(), CONTEXT_FRAMES) == ("float16", 300)
    # 22 layers, keys and values of 1024 channels, 10 steps with and without guidance, two bytes each.
    assert 300 * 22 * 2 * 1024 * 20 * 2 <= CONTEXT_BYTES < 350 * 22 * 2 * 1024 * 20 * 2


def test_fewer_steps_leave_room_for_more_context() -> None:
    assert flow_memory(RELEASED, FlowOptions(n_timesteps=5), 1000) == ("float16", 600)
    assert flow_memory(RELEASED, FlowOptions(), None) == ("float16", None)


def test_the_context_is_at_least_a_chunk() -> None:
    assert flow_memory(SMALL, FlowOptions(), 3)[1] == 50


def test_a_directory_that_was_not_converted(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cosyvoice convert"):
        load_native_model(tmp_path)
