"""The networks that a configuration describes, of any generation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cosyvoice.config.model import (
    CausalMaskedDiffConfig,
    MaskedDiffConfig,
    ModelConfig,
)
from cosyvoice.flow.causal_masked_diff import CausalMaskedDiffWithXvec
from cosyvoice.flow.conditional import CausalConditionalFlow
from cosyvoice.flow.flow import CausalMaskedDiffWithDiT
from cosyvoice.flow.masked_diff import MaskedDiffWithXvec
from cosyvoice.hifigan.generator import CausalHiFTGenerator, HiFT, HiFTGenerator
from cosyvoice.llm.kinds import speech_lm_class
from cosyvoice.llm.speech_lm import SpeechLM


def build_llm(config: ModelConfig) -> SpeechLM:
    """The language model, with weights as they are initialised."""
    make: Any = speech_lm_class(config.llm)
    network: SpeechLM = make(config.llm, config.end_of_prompt_id)
    return network


def build_flow(config: ModelConfig) -> MaskedDiffWithXvec | CausalConditionalFlow:
    """The flow, with weights as they are initialised."""
    if isinstance(config.flow, MaskedDiffConfig):
        return MaskedDiffWithXvec(config.flow)
    if isinstance(config.flow, CausalMaskedDiffConfig):
        return CausalMaskedDiffWithXvec(config.flow)
    return CausalMaskedDiffWithDiT(config.flow)


def build_hift(config: ModelConfig) -> HiFT:
    """The vocoder, with weights as they are initialised."""
    return CausalHiFTGenerator(config.hift) if config.hift.causal else HiFTGenerator(config.hift)


def expected_shapes(config: ModelConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """Names and shapes of the weights of `llm`, `flow` and `hift`, without memory for their values."""
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {
            "llm": build_llm(config),
            "flow": build_flow(config),
            "hift": build_hift(config),
        }
    return {
        name: {key: tuple(value.shape) for key, value in network.state_dict().items()}
        for name, network in networks.items()
    }
