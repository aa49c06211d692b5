"""Settings of speed as options of the stages."""

from __future__ import annotations

from cosyvoice.native.options import VocoderOptions
from cosyvoice.native.solver import FlowOptions
from cosyvoice.native.speed import stage_options


def test_what_is_not_chosen_stays_as_it_is() -> None:
    assert stage_options() == {"flow": None, "vocoder": None}
    assert stage_options(4, None) == {"flow": FlowOptions(n_timesteps=4), "vocoder": None}
    assert stage_options(guided_until=0.5)["flow"] == FlowOptions(guidance=(0.0, 0.5))
    chosen = stage_options(None, "openvino")
    assert chosen == {"flow": FlowOptions(engine="openvino"), "vocoder": VocoderOptions(engine="openvino")}
