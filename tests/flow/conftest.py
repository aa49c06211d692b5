"""A tiny flow whose weights are all random: fresh ones would predict velocity 0."""

from __future__ import annotations

import pytest
import torch

from cosyvoice.config.model import DiTConfig, FlowConfig
from cosyvoice.flow.flow import CausalMaskedDiffWithDiT


@pytest.fixture(scope="session")
def flow() -> CausalMaskedDiffWithDiT:
    config = FlowConfig(
        vocab_size=37,
        speaker_embedding_dim=12,
        mel_dim=8,
        pre_lookahead_channels=10,
        dit=DiTConfig(
            dim=32,
            depth=2,
            heads=4,
            dim_head=8,
            mel_dim=8,
            mu_dim=6,
            spk_dim=5,
            out_channels=8,
            static_chunk_size=10,
        ),
    )
    flow = CausalMaskedDiffWithDiT(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return flow.eval()
